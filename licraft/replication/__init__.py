"""Replication: committed commands, in one order, on every server of the pool.

The only room that knows PySyncObj. Everything above it uses `engine.Engine`.
"""
