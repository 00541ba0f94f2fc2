"""Answers out: a finished run put to use. It judges pictures, is exported, and is shown on a local page."""
