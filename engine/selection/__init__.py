"""New verdicts from stored scores: other thresholds, calibration on labels, early rejection."""
