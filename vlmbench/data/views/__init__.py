"""How a picture is shown: one plug-in a file."""
