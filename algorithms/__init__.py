"""The objectives: pure functions on tensors, and the table that names their combinations."""
