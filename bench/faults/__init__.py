"""What happens to a run after a fault: see `__main__.py`."""
