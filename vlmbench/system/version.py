"""The version of vlmbench."""

__version__ = "0.1.0"
