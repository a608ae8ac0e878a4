"""The verifier's rule, from scores to a verdict: the verifier calls it, and `select` with other thresholds."""

import math
from collections.abc import Mapping

from engine.runfile.verifier import VerifierConfig
from engine.sample import Verdict

# The fields of VerifierConfig that decide a verdict; the others decide scores.
THRESHOLDS = ("min_image", "min_text", "min_directional", "consistency", "min_contrast")
NOT_FINITE = "not_finite"
# Why an edit was turned down that was not drawn to its end: it has no picture, and none of the verifier's scores.
EARLY = "dropped_early"


def verdict_of(scores: Mapping[str, float], config: VerifierConfig, *, text_changes: bool) -> Verdict:
    """Return whether an edit passes every threshold, and the checks that it fails if not."""
    reasons = verdict_reasons(scores, config, text_changes=text_changes)
    return Verdict(accepted=not reasons, reasons=reasons)


def is_early(verdict: Verdict | None) -> bool:
    """Return whether an edit was turned down by its preview."""
    return verdict is not None and EARLY in verdict.reasons


def verdict_reasons(scores: Mapping[str, float], config: VerifierConfig, *, text_changes: bool) -> tuple[str, ...]:
    """Return the checks that an edit fails, each named after its score; `not_finite` when a score it needs is NaN.

    A placebo's text does not change, so direction and consistency are not asked of it.
    """
    floors = score_floors(config, text_changes=text_changes)
    is_consistency_asked = text_changes and config.consistency
    failed = [name for name, floor in floors.items() if scores[name] < floor]
    if is_consistency_asked and scores["consistency"] <= 0:
        failed.append("consistency")
    asked = [*floors, *(["consistency"] if is_consistency_asked else [])]
    if any(not math.isfinite(scores[name]) for name in asked):
        failed.append(NOT_FINITE)
    return tuple(failed)


def score_floors(config: VerifierConfig, *, text_changes: bool) -> dict[str, float]:
    """Return the smallest value that passes, by score; consistency has none, it must be above 0."""
    floors = {
        "image": config.min_image,
        "text_source": config.min_text,
        "text_edit": config.min_text,
        "contrast": config.min_contrast,
    }
    return floors | ({"directional": config.min_directional} if text_changes else {})
