"""Calibration of a classifier's probabilities: calibration error and negative log-likelihood, by role of the images."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.sample import ROLES, Json
from engine.statistics import Floats, calibration_error

# A float32 probability of 0 would make the mean infinite.
SMALLEST_PROBABILITY = 1e-7


def negative_log_likelihood(p_label: Floats) -> float:
    """Return the mean of -log p(label) in nats; NaN without predictions."""
    return float(-np.log(np.maximum(p_label, SMALLEST_PROBABILITY)).mean()) if len(p_label) else math.nan


def calibration_by_role(predictions: pa.Table) -> dict[str, Json]:
    """Return n, calibration_error (15 bins of equal mass) and nll (nats) by role: sources, placebos, accepted edits.

    A role without accepted pictures is left out.
    """
    accepted = predictions.filter(predictions["accepted"])
    found: dict[str, Json] = {}
    for role in ROLES:
        rows = accepted.filter(pc.equal(accepted["role"], role))
        if not rows.num_rows:
            continue
        right = np.asarray(rows["prediction"]) == np.asarray(rows["label"])
        confidence = np.asarray(rows["confidence"], np.float64)
        found[role] = {
            "n": rows.num_rows,
            "calibration_error": calibration_error(confidence, right),
            "nll": negative_log_likelihood(np.asarray(rows["p_label"], np.float64)),
        }
    return found
