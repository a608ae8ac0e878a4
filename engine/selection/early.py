"""Early rejection: the preview-score cut of a round, calibrated on its pilot shards, and the run files that apply it.

The first shards of a round are its pilot: every edit is drawn to the end, and its preview is scored too. The cut
follows from the pilot's rows and applies to the other shards, whose markers name it. So all bytes still follow from the
plan.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.canonical import indented_json
from engine.errors import RunDirectoryError
from engine.rounds.decision import decision_path, read_decision
from engine.run.directory import RunDirectory, marker_path
from engine.runfile.editor import EarlyRejection, EditorConfig, PreviewingEditorConfig
from engine.selection.selection import thresholds_of
from engine.shards.record import SCORE, mapping_of
from engine.verdicts.early_cut import PREVIEW, FoundCut, Previewed, find_cut

if TYPE_CHECKING:
    from engine.runfile.run import RunFile

LOG = logging.getLogger(__name__)
FOLDER = "early"


@dataclass(frozen=True, kw_only=True)
class Cut(FoundCut):
    """The cut of round `number`, and the pilot's evidence for it.

    Of the `num_previewed` edits of the `pilots`, `num_accepted` were accepted.
    """

    number: int
    plan: str
    pilots: tuple[int, ...]
    false_reject: float
    num_previewed: int
    num_accepted: int

    @cached_property
    def data(self) -> bytes:
        """Return the content of its file."""
        record = asdict(self) | {"checks": {name: check.model_dump() for name, check in self.checks.items()}}
        return indented_json(record)

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the file; the markers of the shards made with the cut refer to it by this."""
        return hashlib.sha256(self.data).hexdigest()

    def apply_to(self, run: "RunFile") -> "RunFile":
        """Return the run with an editor that drops edits below the cut; unchanged where no edit is dropped."""
        if self.least is None:
            return run
        return _with_previews(run, {"checks": self.checks, "least": self.least, "cut": self.sha256})

    def describe(self) -> str:
        """Return one sentence about the number of edits that the cut would have dropped."""
        if self.least is None:
            return f"drops nothing: {self.why}"
        rejected = self.num_previewed - self.num_accepted
        return (
            f"would have dropped {self.num_dropped:,} of the pilot's {rejected:,} edits that the verifier rejected, "
            f"and {self.num_lost:,} of the {self.num_accepted:,} that it accepted"
        )


def early_editor(run: "RunFile") -> tuple[str, EditorConfig, EarlyRejection] | None:
    """Return name, settings and early-rejection settings of the editor that rejects early; None where none does."""
    for name, config in run.stages.items():
        if isinstance(config, EditorConfig) and config.early_rejection is not None:
            return name, config, config.early_rejection
    return None


def as_pilot(run: "RunFile") -> "RunFile":
    """Return the run with an editor that scores previews and drops no edit."""
    return _with_previews(run, {})


def run_with_cut(run: "RunFile", cuts: Mapping[str, Cut], name: str | None) -> "RunFile":
    """Return the run that makes a shard again: with the cut that its marker names, without one as a pilot.

    Raises RunDirectoryError where the cut is not in `cuts`.
    """
    if name is None:
        return as_pilot(run)
    if name not in cuts:
        raise RunDirectoryError(
            f"shards were made by the cut {name[:12]}, which is not in the folder {FOLDER} of the run any more: "
            "restore it, or delete the markers that name it, and `counterforge generate` makes these shards again"
        )
    return cuts[name].apply_to(run)


def split_pilot(run: "RunFile", shards: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split the shards of a round into its pilot, the first `pilot_shards` of them, and the others."""
    found = early_editor(run)
    ordered, count = sorted(shards), found[2].pilot_shards if found else 0
    return ordered[:count], ordered[count:]


def cut_path(number: int) -> str:
    """Return the path of a round's cut in the run directory."""
    return decision_path(FOLDER, number)


def read_cut(rundir: RunDirectory, number: int) -> Cut:
    """Read the cut of a round; RunDirectoryError where it is missing or cannot be read."""
    remedy = "delete it, and `counterforge generate` finds it again from the pilot"
    return read_decision(rundir, cut_path(number), Cut, name="cut", remedy=remedy)


def read_cuts(rundir: RunDirectory) -> dict[str, Cut]:
    """Return the stored cuts by SHA-256, in the order of their rounds."""
    numbers = [int(name.removesuffix(".json")) for name in sorted(rundir.storage.list(FOLDER, ".json"))]
    return {found.sha256: found for found in (read_cut(rundir, number) for number in numbers)}


def make_cut(run: "RunFile", rundir: RunDirectory, pilots: Sequence[int], others: Sequence[int], number: int) -> Cut:
    """Return the cut for the other shards of a round whose pilot is finished; compute and write it on first use.

    A stored cut is never changed, since shards were made with it. Raises RunDirectoryError where it is missing and the
    pilot gives another one now.
    """
    if rundir.exists(cut_path(number)):
        return read_cut(rundir, number)
    editor = early_editor(run)
    assert editor is not None
    _, config, early = editor
    edits = read_previewed(rundir, pilots)
    found = find_cut(edits, early, config, thresholds_of(run))
    cut = Cut(
        number=number,
        plan=rundir.info.digest,
        pilots=tuple(pilots),
        false_reject=early.false_reject,
        num_previewed=len(edits),
        num_accepted=sum(edit.is_accepted for edit in edits),
        **vars(found),
    )
    made = set(rundir.done()).intersection(others)
    if made and rundir.marker(min(made)).early != cut.sha256:
        raise RunDirectoryError(
            f"{len(made)} shards were made by a cut that is missing, and the pilot now gives another one: restore "
            f"{rundir.storage.name(cut_path(number))}, or delete their markers (the first is {marker_path(min(made))}) "
            "and run the same command again"
        )
    rundir.storage.create(cut_path(number), cut.data)
    return cut


def read_previewed(rundir: RunDirectory, pilots: Iterable[int]) -> list[Previewed]:
    """Return the edits of finished pilot shards that have a preview and a verdict."""
    split_keys = rundir.plan().split_keys()
    rows = [row for index in pilots for row in rundir.read_rows(index).to_pylist()]
    return [
        Previewed(
            split_key=split_keys[row["source_key"]],
            preview={name.removeprefix(PREVIEW): scores[name] for name in scores if name.startswith(PREVIEW)},
            final={name: scores[name] for name in scores if not name.startswith(PREVIEW)},
            is_accepted=row["accepted"],
        )
        for row, scores in ((row, mapping_of(row, SCORE)) for row in rows)
        if row["accepted"] is not None and any(name.startswith(PREVIEW) for name in scores)
    ]


def _with_previews(run: "RunFile", more: Mapping[str, Any]) -> "RunFile":
    """Return the run with an editor that scores previews, and with `more` of its settings."""
    found = early_editor(run)
    if found is None:
        return run
    name, config, early = found
    clip = early.model or thresholds_of(run).model
    previewing = PreviewingEditorConfig.model_validate({**dict(config), "clip": clip, **more})
    return run.model_copy(update={"stages": {**run.stages, name: previewing}})
