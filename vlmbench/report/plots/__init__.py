"""Plots as inline SVG whose colours are the page's own, so that they follow its light or dark scheme."""
