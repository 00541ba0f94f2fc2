"""Pictures and records: manifest, splits, prompts, views, and the plug-ins that fill them."""
