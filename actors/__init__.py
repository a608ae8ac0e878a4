"""WHO: models pinned on devices, one role a file. Plain classes, usable without a cluster."""
