"""A finished run in use: predict, export and serve."""
