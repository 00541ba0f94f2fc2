"""Sources of images and records: one plug-in in each file."""
