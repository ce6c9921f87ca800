"""The seats of a pool as a Promela model, checked exhaustively by spin: see README.rst."""
