"""The small model, which trains on a laptop: SmolLM2-135M and EfficientNet-Lite0."""
