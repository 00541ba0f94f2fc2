"""Where pictures and records come from: one plug-in a file."""
