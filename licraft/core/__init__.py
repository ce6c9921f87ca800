"""The pure core: what a pool of license servers decides, and nothing of how.

May import the standard library and itself. Must not read a clock, a random
source, a file, a socket or the environment; must not log or start threads.
"""
