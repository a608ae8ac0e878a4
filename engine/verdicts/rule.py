"""The verifier's rule, from scores to a verdict: the verifier calls it, and `select` with other settings."""

import math
from collections.abc import Iterator, Mapping

from engine.runfile.verifier import Check, RuleConfig, VerifierConfig, checks_of
from engine.sample import Verdict

# Reasons that are no scores: a score that an edit needs is undefined, or was never asked of it.
NOT_FINITE, NOT_ASKED = "not_finite", "not_asked"
# The reason of an edit whose preview was rejected: it has no picture, and none of the verifier's scores.
EARLY = "dropped_early"


def verdict_of(scores: Mapping[str, float], config: VerifierConfig, *, text_changes: bool) -> Verdict:
    """Return whether an edit is accepted by the rule, and the checks that speak against it if not."""
    reasons = verdict_reasons(scores, config, text_changes=text_changes)
    return Verdict(accepted=not reasons, reasons=reasons)


def is_early(verdict: Verdict | None) -> bool:
    """Return whether an edit was rejected by its preview."""
    return verdict is not None and EARLY in verdict.reasons


def verdict_reasons(scores: Mapping[str, float], config: VerifierConfig, *, text_changes: bool) -> tuple[str, ...]:
    """Return the checks that speak against an edit, each named after its score; none where the rule accepts it.

    Behind them `not_finite` if one of these scores is undefined, or `not_asked` where nothing but a dear check that was
    not asked is missing. A placebo's text does not change: checks of the text are not asked of it, and pass.
    """
    failed = _failed(scores, config, text_changes=text_changes)
    against = [failed[name] for name in _decisive(failed, config.rule)]
    reasons = [reason for reason in against if reason not in (NOT_FINITE, NOT_ASKED)]
    if NOT_FINITE in against:
        reasons.append(NOT_FINITE)
    return tuple(reasons or against[:1])


def passes_so_far(scores: Mapping[str, float], config: VerifierConfig, *, text_changes: bool) -> bool:
    """Return whether an edit would be accepted if it passed all checks that were not asked yet."""
    failed = _failed(scores, config, text_changes=text_changes)
    return not list(_decisive({name: why for name, why in failed.items() if why != NOT_ASKED}, config.rule))


def asked_checks(config: VerifierConfig, *, text_changes: bool) -> list[Check]:
    """Return the checks that are asked of an edit."""
    return [check for check in checks_of(config) if text_changes or not check.of_text]


def _failed(scores: Mapping[str, float], config: VerifierConfig, *, text_changes: bool) -> dict[str, str]:
    """Return why an edit does not pass a check, by its score, for each that it does not pass."""
    asked = asked_checks(config, text_changes=text_changes)
    return {check.score: why for check in asked if (why := _failure(scores, check)) is not None}


def _failure(scores: Mapping[str, float], check: Check) -> str | None:
    """Return why an edit does not pass a check: its name, or what is the matter with its score; None if it passes."""
    if check.is_dear and check.score not in scores:
        return NOT_ASKED
    score = scores.get(check.score, math.nan)
    if not math.isfinite(score):
        return NOT_FINITE
    return check.score if (score <= 0 if check.floor is True else score < check.floor) else None


def is_decisive(score: str, rule: RuleConfig) -> bool:
    """Return whether an edit that fails this check is rejected, whatever the others say."""
    return score in rule.every if rule.every is not None else score not in rule.of


def _decisive(failed: Mapping[str, str], rule: RuleConfig) -> Iterator[str]:
    """Yield those of the failed checks that the rule counts against an edit."""
    lost = [name for name in failed if name in rule.of]
    outvoted = len(rule.of) - len(lost) < rule.at_least
    for name in failed:
        if is_decisive(name, rule) or (outvoted and name in rule.of):
            yield name
