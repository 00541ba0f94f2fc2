"""The road of one run, from records to figures: `execute.py` is its table of contents."""
