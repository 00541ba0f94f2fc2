"""Benchmarks: each is a command that prints a table and writes a file to bench/results/.

The file holds the figures, the machine that they were measured on, and all versions.
"""
