"""The content of each section of the report, computed from a run's results."""
