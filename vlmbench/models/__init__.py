"""Model code in the conventions of transformers, which works without the rest of vlmbench."""
