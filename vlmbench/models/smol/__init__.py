"""The small model that trains on a laptop: SmolLM2-135M and EfficientNet-Lite0."""
