"""Plots as inline SVG in the page's own colours, so that they follow its light or dark scheme."""

from vlmbench.system.working_folder import leave_working_folder

with leave_working_folder():  # it obeys ./matplotlibrc
    import matplotlib  # noqa: F401
