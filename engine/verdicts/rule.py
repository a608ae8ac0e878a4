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
    for name, threshold in asked_thresholds(config, text_changes=text_changes).items():
        score = scores.get(name, math.nan)
        undefined |= not math.isfinite(score)
        if score <= 0 if threshold is True else score < threshold:
            failed.append(name)
    return (*failed, NOT_FINITE) if undefined else tuple(failed)


def asked_thresholds(config: VerifierConfig, *, text_changes: bool) -> dict[str, float | bool]:
    """Return the threshold of each check that an edit must pass, by score: its least value, or True for above 0."""
    found = {check.score: getattr(config, check.threshold) for check in CHECKS if text_changes or not check.of_text}
    return {score: threshold for score, threshold in found.items() if threshold is not None and threshold is not False}
