"""Benchmarks: one file for each question; README.rst has the answers."""
