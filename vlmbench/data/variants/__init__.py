"""Variants: which records train. Each file is a plug-in."""
