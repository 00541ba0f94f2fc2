"""Images and records: manifest, splits, prompts and views, and the plug-ins that provide them."""
