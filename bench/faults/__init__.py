"""What becomes of a run that a fault befalls: see `__main__.py`."""
