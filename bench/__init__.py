"""Benchmarks: each is a command that prints a table and writes its figures, with the machine, to bench/results/."""
