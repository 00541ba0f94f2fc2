"""The command line: what Hydra runs, mistakes, and a finished run's settings again."""
