"""What `select` prints: accepted edits and failed checks before and after, and proposals for thresholds from labels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.cli.options import percent, share_with_interval
from engine.runfile.verifier import VerifierConfig, with_settings
from engine.selection.calibration import NUM_FOLDS, Calibration, Choice, calibrate
from engine.selection.labels import LabelSet, match_labels, read_label_rows
from engine.selection.selection import (
    PIXELS_NOT_KEPT,
    Candidate,
    Change,
    VerdictCounts,
    describe_thresholds,
    tally_changes,
)
from engine.verdicts.rule import asked_checks, is_early

CHECK_WIDTH = 30
# Rows of a label table that a message names.
MAX_NAMED = 4
FEW_LABELS = 100


def change_lines(candidates: Sequence[Candidate], before: VerifierConfig, after: VerifierConfig) -> Iterator[str]:
    """Yield the thresholds and, for each group of edits, the accepted ones and those that fail each check."""
    changes = tally_changes(candidates, before, after)
    yield from _accept_lines(changes, before, after)
    for change in changes:
        yield from _check_lines(change, before, after)
    yield from _lost_lines(candidates, before, after)


def _accept_lines(changes: Sequence[Change], before: VerifierConfig, after: VerifierConfig) -> Iterator[str]:
    """Yield the thresholds, and the number and share of accepted edits of each group."""
    old, new = describe_thresholds(before), describe_thresholds(after)
    width = max(len(change.name) for change in changes) + 2
    changed = [f"{name} {old[name]} -> {new[name]}" for name in old if old[name] != new[name]]
    same = [f"{name} {value}" for name, value in old.items() if value == new[name]]
    if changed:
        yield f"changed: {', '.join(changed)}"
    if same:
        yield f"{'unchanged' if changed else 'thresholds'}: {', '.join(same)}"
    yield ""
    heads = ("before", "after") if changed else ("now",)
    yield f"{'accepted':<{width}}{'of':>9}" + "".join(f"{head:>19}" for head in heads)
    for change in changes:
        tallies = (change.before, change.after)[: len(heads)]
        yield f"{change.name:<{width}}{change.before.n:>9,}" + "".join(map(_accepted, tallies))


def _accepted(tally: VerdictCounts) -> str:
    rate = f"({100 * (tally.accept_rate or 0):.1f} %)"
    return f"{tally.accepted:>10,} {rate:>8}"


def _check_lines(change: Change, before: VerifierConfig, after: VerifierConfig) -> Iterator[str]:
    """Yield the checks that edits of a group fail: how many fail it, and how many fail nothing else."""
    tallies = (change.before,) if before == after else (change.before, change.after)
    heads = ("now",) if before == after else ("before", "after")
    checks = {check for tally in tallies for check in tally.fails}
    if not checks:
        return
    yield ""
    yield f"{change.name + ' that fail':<{CHECK_WIDTH}}" + "   ".join(f"{head:>8}{'alone':>9}" for head in heads)
    for check in sorted(checks, key=lambda name: (-change.before.fails[name], name)):
        cells = [f"{tally.fails[check]:>8,}{tally.fails_alone[check]:>9,}" for tally in tallies]
        yield f"  {_check_name(check, before, after):<{CHECK_WIDTH - 2}}" + "   ".join(cells)


def _check_name(check: str, before: VerifierConfig, after: VerifierConfig) -> str:
    """Return a check with its thresholds, `image < 0.5 -> 0.6`."""
    old, new = (
        next((each.floor for each in asked_checks(config, text_changes=True) if each.score == check), None)
        for config in (before, after)
    )
    if old is True or new is True:
        return f"{check} <= 0"
    change = f" -> {new:g}" if new != old else ""
    return check if old is None else f"{check} < {old:g}{change}"


def _lost_lines(candidates: Sequence[Candidate], before: VerifierConfig, after: VerifierConfig) -> Iterator[str]:
    """Yield the numbers of edits that no threshold can accept, since their images were not kept or never made."""
    lost = sum(PIXELS_NOT_KEPT in candidate.verdict_by(after).reasons for candidate in candidates)
    early = sum(is_early(candidate.verdict) for candidate in candidates)
    without = sum(not candidate.has_pixels for candidate in candidates) - early
    if lost:
        yield ""
        yield (
            f"{lost:,} edits pass these thresholds and stay rejected ({PIXELS_NOT_KEPT}): they were rejected before, "
            "and shards.keep_rejected is not `all`, so their images are gone. Only `generate` makes them again"
        )
    elif without and before == after:
        yield ""
        yield (
            f"the pixels of {without:,} rejected edits were not kept (shards.keep_rejected): looser thresholds cannot "
            "bring them back"
        )
    if early:
        yield ""
        yield (
            f"{early:,} edits were dropped early, by their previews: they have no images and no scores, so they stay "
            "rejected under all thresholds. Only another run without stages.editor.early_rejection makes them"
        )


def calibration_lines(
    run: str, candidates: Sequence[Candidate], config: VerifierConfig, path: Path, precision: float
) -> Iterator[str]:
    """Yield thresholds proposed for the run at `run` from a label file. Raises SelectionError for unusable labels."""
    rows = read_label_rows(path)
    labels = match_labels(rows, candidates, config)
    yield from _label_lines(labels, len(rows), path)
    result = calibrate(labels.rows, config, precision)
    yield ""
    yield from _score_lines(result, precision)
    proposed = with_settings(config, result.together.thresholds)
    yield ""
    old, new = describe_thresholds(config), describe_thresholds(proposed)
    settings = [f"--set {name}={value}" for name, value in new.items() if value != old[name]]
    if not settings:
        yield "the run has the best thresholds for these labels already: nothing to set"
        return
    yield from _accept_lines(tally_changes(candidates, config, proposed), config, proposed)
    yield ""
    yield "nothing was written. To apply the proposal:"
    yield f"  counterforge select {run} {' '.join(settings)} --out NEW_FOLDER"


def _label_lines(labels: LabelSet, num_rows: int, path: Path) -> Iterator[str]:
    """Yield the number of usable labels, and the rows that are not usable."""
    num_good = sum(row.is_good for row in labels.rows)
    sources = len({row.candidate.source_key for row in labels.rows})
    yield (
        f"{path}: {num_rows} rows, {len(labels.rows)} used: {num_good} good and {len(labels.rows) - num_good} bad "
        f"edits of {sources} sources"
    )
    for problem, named in labels.unusable.items():
        more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
        yield f"  not used, {problem}: {', '.join(named[:MAX_NAMED])}{more}"
    for stratum, size in labels.unseen.items() if labels.rows else ():
        yield f"  no label among the {size:,} {stratum} edits: the figures below do not cover them"
    if 0 < len(labels.rows) < FEW_LABELS:
        yield f"  {len(labels.rows)} labels are few: the intervals are wide; use about 200"


def _score_lines(result: Calibration, precision: float) -> Iterator[str]:
    """Yield precision and recall of the present thresholds, of each alone and of the proposal."""
    lines = {"as set now": result.now}
    lines |= {_title(name, choice): choice.score for name, choice in result.alone.items()}
    lines["all together, proposed"] = result.together.score
    width = max(map(len, lines)) + 2
    yield f"{'':<{width}}{'precision':<24}{'recall':<24}bad accepted"
    for title, score in lines.items():
        shares = [share_with_interval(share.value, share.low, share.high) for share in (score.precision, score.recall)]
        yield f"{title:<{width}}{shares[0]:<24}{shares[1]:<24}{percent(score.bad_kept)}"
    yield (
        f"95 % Wilson intervals over independent sources. All but the first line use sources that did not choose "
        f"the thresholds ({NUM_FOLDS} folds by split key)."
    )
    yield "Each label is weighted by the number of edits in the run with its kind and its present verdict."
    held_out = result.together.score.precision
    if not result.together.is_reached:
        yield (
            f"No thresholds reach a precision of {precision:g} on these labels: the proposal has the highest one. "
            "The scores may not separate these edits: look at the bad ones with a high score"
        )
    elif not held_out.value >= precision:
        yield (
            f"On sources that did not choose them the thresholds miss the precision of {precision:g}: ask for more "
            "with --precision, or label more"
        )
    elif not held_out.value > result.now.precision.value:
        yield "The proposal is no more precise than what is set now: at best it accepts more good edits"
    elif held_out.low < precision:
        yield f"The precision of {precision:g} is reached, but it lies within the interval: label more to be sure"


def _title(name: str, choice: Choice) -> str:
    value = choice.thresholds[name]
    best = "" if choice.is_reached else " (misses it)"
    if isinstance(value, bool):
        return f"{name} alone{best}" if value else f"accept everything{best}"
    return f"{name} {value} alone{best}"
