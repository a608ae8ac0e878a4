"""Models found, loaded, placed on a device and called in batches."""
