"""Model code in the habits of transformers: usable on its own."""
