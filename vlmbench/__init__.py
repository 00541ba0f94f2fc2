"""Fine-tune vision-language models to judge pairs of pictures, and tell truthfully whether a change helped."""

__version__ = "0.1.0"
