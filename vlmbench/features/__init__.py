"""The vision-token store: find an image's tokens, or encode it once and keep them."""
