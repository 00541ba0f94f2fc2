"""Plots as inline SVG in the page's own colours, so that they follow its light or dark scheme."""
