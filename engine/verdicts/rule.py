"""The verifier's rule, from scores to a verdict: the verifier calls it, and `select` with other thresholds."""

import math
from collections.abc import Mapping

from engine.runfile.verifier import CHECKS, VerifierConfig
from engine.sample import Verdict

NOT_FINITE = "not_finite"
# The reason of an edit whose preview was rejected: it has no picture, and none of the verifier's scores.
EARLY = "dropped_early"


def verdict_of(scores: Mapping[str, float], config: VerifierConfig, *, text_changes: bool) -> Verdict:
    """Return whether an edit passes every check, and those that it fails if not."""
    reasons = verdict_reasons(scores, config, text_changes=text_changes)
    return Verdict(accepted=not reasons, reasons=reasons)


def is_early(verdict: Verdict | None) -> bool:
    """Return whether an edit was rejected by its preview."""
    return verdict is not None and EARLY in verdict.reasons


def verdict_reasons(scores: Mapping[str, float], config: VerifierConfig, *, text_changes: bool) -> tuple[str, ...]:
    """Return the checks that an edit fails, each named after its score; `not_finite` if a score it needs is undefined.

    A placebo's text does not change, so direction and consistency are not asked of it.
    """
    failed = []
    undefined = False
    for check in CHECKS:
        threshold = getattr(config, check.threshold)
        if threshold is False or (check.of_text and not text_changes):
            continue
        score = scores.get(check.score, math.nan)
        undefined |= not math.isfinite(score)
        if score <= 0 if threshold is True else score < threshold:
            failed.append(check.score)
    return (*failed, NOT_FINITE) if undefined else tuple(failed)


def score_floors(config: VerifierConfig, *, text_changes: bool) -> dict[str, float]:
    """Return the least value that passes, by score; a check without a number has none, its score must be above 0."""
    return {
        check.score: float(floor)
        for check in CHECKS
        if not isinstance(floor := getattr(config, check.threshold), bool) and (text_changes or not check.of_text)
    }
