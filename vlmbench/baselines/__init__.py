"""Baselines: methods that train little or nothing, asked on the records of a run."""
