"""Pools in one process and a clock that stands still: for our tests and our users'."""
