"""Files, signals, processes, energy, secrets, and text for terminals."""
