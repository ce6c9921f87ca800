"""One license server: its record of distribution, its lease and its part in the pool."""
