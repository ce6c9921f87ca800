"""The HTTP API: decodes requests, asks the license server, encodes answers."""
