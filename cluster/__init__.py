"""Where a run is planned, placed, started and supervised."""
