"""Labels: edits that a person labelled good or bad, read from a CSV and joined with the scores of a run."""

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import SelectionError
from engine.runfile.verifier import VerifierConfig
from engine.sample import content_seed
from engine.selection.selection import Candidate
from engine.verdicts.rule import NOT_FINITE, is_early, verdict_reasons

COLUMNS = ("key", "label")
LABELS = {"good": True, "bad": False}
# Optional column, written by `show --label`: the fingerprint of the scores of the labelled picture.
FINGERPRINT = "fingerprint"


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One row of the file, unparsed."""

    line: int
    key: str
    label: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One labelled edit; `weight` is the number of edits of the run that it represents."""

    candidate: Candidate
    is_good: bool
    weight: float


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The usable labels, and the unusable rows by reason, each with its line.

    `unseen` has the size of each stratum (kind of edit and stored verdict) with edits but without labels.
    """

    rows: list[Labelled]
    unusable: Mapping[str, list[str]]
    unseen: Mapping[str, int]


def read_label_rows(path: Path) -> list[LabelRow]:
    """Return the rows of a CSV with the columns key and label; SelectionError where it is not one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SelectionError(
            f"cannot read the labels in {path}: {error.strerror}: `counterforge show RUN --label` makes a page that "
            "saves such a file"
        ) from error
    except UnicodeDecodeError as error:
        raise SelectionError(f"{path} is not UTF-8 text: save it as CSV with the columns key and label") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise SelectionError(
            f"{path} has no column {' and no column '.join(missing)}, its first line says "
            f"{', '.join(names) or 'nothing'}: expected a CSV with commas that begins `key,label`"
        )
    rows = []
    try:
        for record in reader:
            values = {column: (record.get(names.get(column, "")) or "").strip() for column in (*COLUMNS, FINGERPRINT)}
            rows.append(LabelRow(line=reader.line_num, **values))
    except csv.Error as error:
        raise SelectionError(f"{path}, line {reader.line_num}, is not CSV: {error}: mend that line") from error
    return rows


def match_labels(rows: Sequence[LabelRow], candidates: Sequence[Candidate], config: VerifierConfig) -> LabelSet:
    """Join labels with the scored counterfactuals of a run, and weight them.

    Rejected edits are over-represented among the labels, so each label gets the weight of an equal part of the edits of
    its kind and stored verdict (post-stratification).
    """
    unusable: dict[str, list[str]] = defaultdict(list)
    by_key = {candidate.key: candidate for candidate in candidates}
    said: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        said[row.key].add(row.label.lower())
    chosen: dict[str, tuple[Candidate, bool]] = {}
    for row in rows:
        candidate = by_key.get(row.key)
        problem = _problem(row, candidate, said[row.key], config)
        if problem is None and row.key in chosen:
            problem = "named before with the same label (counted once)"
        if problem is not None:
            unusable[problem].append(f"{row.key or 'no key'} (line {row.line})")
        elif candidate is not None:
            chosen[row.key] = candidate, LABELS[row.label.lower()]
    sizes = Counter(map(_stratum, (one for one in candidates if one.role == "counterfactual")))
    seen = Counter(_stratum(candidate) for candidate, _ in chosen.values())
    return LabelSet(
        rows=[
            Labelled(candidate=one, is_good=is_good, weight=sizes[_stratum(one)] / seen[_stratum(one)])
            for one, is_good in chosen.values()
        ],
        unusable=dict(unusable),
        unseen={name: size for name, size in sorted(sizes.items()) if name not in seen},
    )


def scores_fingerprint(scores: Mapping[str, float]) -> str:
    """Return a short digest of an edit's scores: another picture under the same key has another one."""
    text = ",".join(f"{name}={value:.9g}" for name, value in sorted(scores.items()) if math.isfinite(value))
    # The letter in front keeps spreadsheets from reading a number such as 12e45678.
    return "s" + f"{content_seed(0, text):016x}"[:8]


def _problem(row: LabelRow, candidate: Candidate | None, said: set[str], config: VerifierConfig) -> str | None:
    """Return the reason why a row is unusable, None if it is usable."""
    if row.label.lower() not in LABELS:
        return "the label is neither good nor bad"
    if candidate is None:
        return "the run has no scored edit of this key"
    if len(said & LABELS.keys()) > 1:
        return "called both good and bad"
    if candidate.role != "counterfactual":
        return "a placebo: thresholds are chosen for edits that change something"
    if is_early(candidate.verdict):
        return "dropped early: it has no picture, and no thresholds change that"
    if row.fingerprint and row.fingerprint != scores_fingerprint(candidate.scores):
        return "the label is of another picture, of a run with other models or settings"
    reasons = verdict_reasons(candidate.scores, config, text_changes=candidate.text_changes)
    return "a score is undefined, so it is rejected whatever the thresholds" if NOT_FINITE in reasons else None


def _stratum(candidate: Candidate) -> str:
    verdict = "dropped early" if is_early(candidate.verdict) else "rejected"
    return f"{'accepted' if candidate.verdict.accepted else verdict} {candidate.edit_kind}"
