"""Views: how an image is shown. Each file is a plug-in."""
