"""Compare images whatever their brightness, contrast, orientation, and small shifts or crops."""
