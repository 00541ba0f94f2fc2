"""Single pictures of the user's: found by a source, brought in, dealt into lots, paired, and made records."""
