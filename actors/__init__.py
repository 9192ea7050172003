"""Ray actors: thin shells around engines."""
