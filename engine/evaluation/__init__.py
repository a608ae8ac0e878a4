"""Accuracies with their intervals: over groups, between classifiers, against confidence."""
