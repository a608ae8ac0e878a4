"""Planted and clean classifiers: what a probe must find in them, and what it must not."""
