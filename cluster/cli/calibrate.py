"""What `select --calibrate` prints: the labels that count, what each threshold is worth, and a proposal."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli.tallies import accept_lines
from engine.runfile.verifier import VerifierConfig
from engine.selection.calibration import NUM_FOLDS, Calibration, Choice, calibrate
from engine.selection.labels import LabelSet, match_labels, read_label_rows
from engine.selection.selection import Candidate, describe_thresholds, tally_changes
from engine.statistics import Interval

if TYPE_CHECKING:
    from engine.run.directory import RunDirectory

MAX_NAMED = 4
FEW_LABELS = 100


def calibration_lines(
    rundir: "RunDirectory", candidates: Sequence[Candidate], config: VerifierConfig, path: Path, precision: float
) -> Iterator[str]:
    """Yield the calibration of a run by the labels in a file. Raises SelectionError for labels that cannot be used."""
    rows = read_label_rows(path)
    labels = match_labels(rows, candidates, config)
    yield from label_lines(labels, len(rows), path)
    result = calibrate(labels.rows, config, precision)
    yield ""
    yield from score_lines(result, precision)
    after = config.model_copy(update=result.together.thresholds)
    yield ""
    yield from proposal_lines(rundir, candidates, config, after)


def label_lines(labels: LabelSet, num_rows: int, path: Path) -> Iterator[str]:
    """Yield how many labels count, and which rows do not."""
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
        yield f"  no label among the {size:,} {stratum} edits: the figures below say nothing of them"
    if 0 < len(labels.rows) < FEW_LABELS:
        yield f"  {len(labels.rows)} labels are few: the intervals are wide; about 200 are right"


def score_lines(result: Calibration, precision: float) -> Iterator[str]:
    """Yield precision and recall of the present thresholds, of each alone and of the proposal."""
    lines = {"as set now": result.now}
    lines |= {_title(name, choice): choice.score for name, choice in result.alone.items()}
    lines["all together, proposed"] = result.together.score
    width = max(map(len, lines)) + 2
    yield f"{'':<{width}}{'precision':<24}{'recall':<24}bad accepted"
    for title, score in lines.items():
        yield f"{title:<{width}}{_share(score.precision):<24}{_share(score.recall):<24}{_percent(score.bad_kept)}"
    yield (
        f"95 % Wilson intervals over independent sources. All but the first line are of sources that did not choose "
        f"the thresholds ({NUM_FOLDS} folds by split key)."
    )
    yield "Each label counts for the edits of the run that have its kind and its present verdict."
    held_out = result.together.score.precision
    if not result.together.is_reached:
        yield (
            f"No thresholds reach a precision of {precision:g} on these labels: proposed are those with the best one. "
            "The scores may not tell these edits apart: look at the bad ones with a high score"
        )
    elif not held_out.value >= precision:
        yield (
            f"On sources that did not choose them the thresholds miss the precision of {precision:g}: ask for more "
            "with --precision, or label more"
        )
    elif not held_out.value > result.now.precision.value:
        yield "The proposal is no more precise than what is set now: it only keeps more good edits, if that"
    elif held_out.low < precision:
        yield f"The precision of {precision:g} is reached, but it lies within the interval: more labels would tell"


def proposal_lines(
    rundir: "RunDirectory", candidates: Sequence[Candidate], before: VerifierConfig, after: VerifierConfig
) -> Iterator[str]:
    """Yield what the proposal would accept, and the command that applies it."""
    old, new = describe_thresholds(before), describe_thresholds(after)
    settings = [f"--set {name}={value}" for name, value in new.items() if value != old[name]]
    if not settings:
        yield "the run has the best thresholds for these labels already: nothing to set"
        return
    yield from accept_lines(tally_changes(candidates, before, after), before, after)
    yield ""
    yield "nothing was written. To apply the proposal:"
    yield f"  counterforge select {rundir.storage} {' '.join(settings)} --out NEW_FOLDER"


def _title(name: str, choice: Choice) -> str:
    value = choice.thresholds[name]
    best = "" if choice.is_reached else " (misses it)"
    if name == "consistency":
        return f"consistency alone{best}" if value else f"accept everything{best}"
    return f"{name} {value} alone{best}"


def _share(interval: Interval) -> str:
    return f"{_percent(interval.value)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _percent(value: float) -> str:
    return "   -  " if value != value else f"{100 * value:5.1f} %"  # NaN where nothing was accepted
