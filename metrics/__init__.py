"""Names of metrics, and where they go."""
