"""A thousand holders on real servers that are killed, stopped and cut off: `make chaos`."""
