"""What would fail later is said before anything is spent: checks of a run file, its data, models and machine."""
