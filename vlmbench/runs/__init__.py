"""The run folder: its files, and what a run's figures depend on."""
