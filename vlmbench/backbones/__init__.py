"""What a run needs from one model family: one family a file."""
