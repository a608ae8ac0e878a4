"""Where previews are cut: an order statistic of the margins of edits that were drawn to the end and accepted.

A margin is of the verifier's checks the one that a preview is nearest to failing, or fails most, in spreads of what a
score still changes to the end. The cut is so low that, with 95 % confidence, no more of the accepted edits of a run
than the named share are below it, as long as these are like those of its pilot.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.runfile.editor import EarlyRejection, EditorConfig, PreviewCheck
from engine.runfile.verifier import VerifierConfig
from engine.statistics import binomial_tail
from engine.verdicts.rule import asked_checks, is_decisive

# Of a preview's scores, before those of the same names that the finished picture gets.
PREVIEW = "preview_"
CONFIDENCE = 0.95
# A preview costs about a twentieth of an edit: a decoding, and a look by a CLIP.
PREVIEW_COST = 0.05
SMALLEST_SPREAD = 1e-6
DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class Previewed:
    """Hold one edit of a pilot: the scores of its preview and of its picture, by name, and the verdict on this one.

    Edits whose sources share a `split_key` are no independent evidence.
    """

    split_key: str
    preview: Mapping[str, float]
    final: Mapping[str, float]
    is_accepted: bool


@dataclass(frozen=True, kw_only=True)
class FoundCut:
    """Hold where to cut: an edit goes on whose margin is at least `least`; None where none is dropped, for `why`.

    The accepted edits are worth `effective` independent ones. `num_lost` of them would have been dropped, and
    `num_dropped` of the others.
    """

    checks: Mapping[str, PreviewCheck]
    effective: float
    least: float | None
    num_lost: int
    num_dropped: int
    why: str | None


def find_cut(
    edits: Sequence[Previewed], early: EarlyRejection, editor: EditorConfig, verifier: VerifierConfig
) -> FoundCut:
    """Return the cut that a pilot's edits allow: a function of the arguments alone, in any order of the edits."""
    checks = {
        check.score: PreviewCheck(floor=0.0 if check.floor is True else check.floor, spread=_spread(check.score, edits))
        for check in sorted(asked_checks(verifier, text_changes=True))
        if check.is_own and is_decisive(check.score, verifier.rule)
    }
    margins = [(margin(edit.preview, checks), edit) for edit in edits]
    accepted = sorted(value for value, edit in margins if edit.is_accepted)
    effective = effective_number([(value, edit.split_key) for value, edit in margins if edit.is_accepted])
    # As many in a hundred of the accepted edits as of the independent ones that they are worth.
    place = math.floor(allowed_below(math.floor(effective), early.false_reject) * len(accepted) / max(effective, 1))
    least = accepted[place - 1] if place else -math.inf
    below = [edit for value, edit in margins if value < least]
    why = _why_not(early, len(accepted), effective, place)
    if why is None and saved_share(editor, early, len(below) / len(edits)) <= 0:
        why = f"of {len(edits):,} edits it would be {len(below):,}, which saves less than the previews cost"
    lost = sum(edit.is_accepted for edit in below)
    return FoundCut(
        checks=checks,
        effective=round(effective, DIGITS),
        least=least if why is None else None,
        num_lost=lost if why is None else 0,
        num_dropped=len(below) - lost if why is None else 0,
        why=why,
    )


def margin(preview: Mapping[str, float], checks: Mapping[str, PreviewCheck]) -> float:
    """Return how far a preview's worst score is above its floor, in spreads; -inf where one that is asked is NaN.

    A score that the preview has not is not asked, as direction of an edit whose text does not change.
    """
    margins = [(preview[name] - check.floor) / check.spread for name, check in checks.items() if name in preview]
    return -math.inf if any(math.isnan(value) for value in margins) else min(margins, default=math.inf)


def allowed_below(count: int, rate: float, confidence: float = CONFIDENCE) -> int:
    """Return the largest k such that the k-th smallest of `count` values has, surely, no more than `rate` below it.

    The share below it has the distribution Beta(k, count - k + 1), whatever that of the values: below `rate` with at
    least this confidence where k of `count` chances of `rate` come true as often (Wilks 1941). 0 where no k has it.
    """
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if binomial_tail(middle, count, rate) >= confidence else (low, middle - 1)
    return low


def effective_number(values: Sequence[tuple[float, str]]) -> float:
    """Return how many independent values those of clusters are worth: their number by Kish's design effect.

    The correlation within a cluster is that of their ranks, by the analysis of variance; none is taken for negative.
    """
    count = len(values)
    ranks: dict[str, list[float]] = {}
    for rank, (_, cluster) in enumerate(sorted(values)):
        ranks.setdefault(cluster, []).append((rank + 0.5) / count - 0.5)
    squares = sum(len(members) ** 2 for members in ranks.values())
    if not len(ranks) < count or len(ranks) < 2:
        return float(len(ranks))
    means = [math.fsum(members) / len(members) for members in ranks.values()]
    between = math.fsum(len(members) * mean**2 for members, mean in zip(ranks.values(), means, strict=True))
    within = math.fsum(
        (rank - mean) ** 2 for members, mean in zip(ranks.values(), means, strict=True) for rank in members
    )
    between, within = between / (len(ranks) - 1), within / (count - len(ranks))
    size = (count - squares / count) / (len(ranks) - 1)
    total = between + (size - 1) * within
    correlation = max(0.0, (between - within) / total) if total > 0 else 0.0
    return count / (1 + (squares / count - 1) * correlation)


def saved_share(editor: EditorConfig, early: EarlyRejection, dropped: float) -> float:
    """Return what share of the work is saved where a share of the edits is dropped; negative where it costs more."""
    steps = editor.num_inference_steps
    if editor.method != "instruct":
        steps = max(1, int(steps * editor.strength))
    return dropped * max(steps - steps_before(early, steps), 0) / steps - early.ahead / steps - PREVIEW_COST


def steps_before(early: EarlyRejection, num_steps: int) -> int:
    """Return after how many of its `num_steps` steps an edit's preview is judged."""
    return max(1, int(round(early.after * num_steps, DIGITS)))


def _spread(name: str, edits: Sequence[Previewed]) -> float:
    """Return the standard deviation of what a score still changes from its preview to the end."""
    pairs = ((edit.preview.get(name, math.nan), edit.final.get(name, math.nan)) for edit in edits)
    changes = [final - preview for preview, final in pairs if math.isfinite(final - preview)]
    # Exact fractions, so that it is the same number on every machine.
    return round(max(SMALLEST_SPREAD, statistics.pstdev(changes) if changes else 1.0), DIGITS)


def _why_not(early: EarlyRejection, num_accepted: int, effective: float, place: int) -> str | None:
    """Return why no cut is sure, None where one is."""
    if place:
        return None
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - early.false_reject))
    return (
        f"the {num_accepted:,} accepted edits of the pilot are worth {math.floor(effective):,} independent ones, and "
        f"that no more than {100 * early.false_reject:g} % are lost is sure from {needed:,} on: raise pilot_shards"
    )
