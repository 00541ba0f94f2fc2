"""Which records train: one plug-in a file."""
