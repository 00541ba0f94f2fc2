"""The vision-token store."""
