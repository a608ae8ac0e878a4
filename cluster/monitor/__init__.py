"""What a run shows while it works: progress, metrics, stalls, training curves."""
