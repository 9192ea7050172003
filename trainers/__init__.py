"""The loop, and the engine that trains."""
