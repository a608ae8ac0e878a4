"""Checkpoints of a training: read as data alone, and with another number of workers than they were written by."""
