"""Early rejection: the cut of a round, found on its pilot and kept in the run directory, and the runs that apply it.

The first shards of a round are its pilot: drawn to the end, whatever their previews say. From their rows follows the
cut, and with it the other shards are made, whose markers name it. So every byte is still a function of the plan.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from engine.canonical import indented_json
from engine.errors import RunDirectoryError
from engine.run.directory import RunDirectory, marker_path
from engine.runfile.editor import EarlyRejection, EditorConfig, PreviewCheck, PreviewingEditorConfig
from engine.selection.selection import thresholds_of
from engine.shards.rows import scores_of
from engine.verdicts.early_cut import PREVIEW, Previewed, find_cut

if TYPE_CHECKING:
    from engine.runfile.run import RunFile

LOG = logging.getLogger(__name__)
FOLDER = "early"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Hold where the previews of round `number` are cut, and what was known then.

    `least` is the smallest margin with which an edit goes on, None where none is dropped, and `why` says why. Of the
    `num_previewed` edits of the `pilots`, `num_accepted` were accepted; it would have dropped `num_lost` of these and
    `num_dropped` of the others. `effective` is the number of independent edits that the accepted ones are worth.
    """

    number: int
    plan: str
    pilots: tuple[int, ...]
    false_reject: float
    num_previewed: int
    num_accepted: int
    effective: float
    checks: Mapping[str, PreviewCheck]
    least: float | None
    num_lost: int
    num_dropped: int
    why: str | None

    @cached_property
    def data(self) -> bytes:
        """Return the bytes of its file."""
        record = asdict(self) | {"checks": {name: check.model_dump() for name, check in self.checks.items()}}
        return indented_json(record)

    @property
    def sha256(self) -> str:
        """Return what the markers of the shards that it was applied to name it by."""
        return hashlib.sha256(self.data).hexdigest()

    def steer(self, run: "RunFile") -> "RunFile":
        """Return the run with its editor told to cut here; where nothing is dropped, with no previews at all."""
        if self.least is None:
            return run
        return _told(run, {"checks": self.checks, "least": self.least, "cut": self.sha256})

    def describe(self) -> str:
        """Return what it does, for people."""
        if self.least is None:
            return f"drops nothing: {self.why}"
        rejected = self.num_previewed - self.num_accepted
        return (
            f"would have dropped {self.num_dropped:,} of the {rejected:,} edits of the pilot that the verifier turned "
            f"down, and {self.num_lost:,} of the {self.num_accepted:,} that it accepted"
        )


def early_editor(run: "RunFile") -> tuple[str, EditorConfig, EarlyRejection] | None:
    """Return the stage that rejects early: its name, its settings, and how; None where none does."""
    for name, config in run.stages.items():
        if isinstance(config, EditorConfig) and config.early_rejection is not None:
            return name, config, config.early_rejection
    return None


def steer_pilot(run: "RunFile") -> "RunFile":
    """Return the run with its editor told to score previews and to drop nothing."""
    return _told(run, {})


def steer_by(run: "RunFile", cuts: Mapping[str, Cut], name: str | None) -> "RunFile":
    """Return the run that makes a shard again whose marker names a cut, or none, as one of a pilot does.

    Raises RunDirectoryError where the cut is not among those that are there.
    """
    if name is None:
        return steer_pilot(run)
    if name not in cuts:
        raise RunDirectoryError(
            f"shards were made by the cut {name[:12]}, which is not in the folder {FOLDER} of the run any more: "
            "restore it, or delete the markers that name it, and `counterforge generate` makes these shards again"
        )
    return cuts[name].steer(run)


def split_pilot(run: "RunFile", shards: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the pilot among the shards of a round, the first ones of the plan, and the others."""
    found = early_editor(run)
    ordered, count = sorted(shards), found[2].pilot_shards if found else 0
    return ordered[:count], ordered[count:]


def cut_path(number: int) -> str:
    """Return where the cut of a round lies."""
    return f"{FOLDER}/{number:03d}.json"


def read_cut(rundir: RunDirectory, number: int) -> Cut:
    """Read the cut of a round; RunDirectoryError where it is not there or cannot be read."""
    path = cut_path(number)
    content = cast(dict[str, Any], rundir.read_json(path))
    try:
        checks = {name: PreviewCheck(**check) for name, check in content["checks"].items()}
        return Cut(**content | {"pilots": tuple(content["pilots"]), "checks": checks})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunDirectoryError(
            f"{rundir.storage.name(path)} is no cut that this version wrote ({error!r}): go on with the version that "
            "did, or delete it, and `counterforge generate` finds it again from the pilot"
        ) from error


def read_cuts(rundir: RunDirectory) -> dict[str, Cut]:
    """Return the cuts that are there, by hash, in the order of their rounds."""
    numbers = [int(name.removesuffix(".json")) for name in sorted(rundir.storage.list(FOLDER, ".json"))]
    return {found.sha256: found for found in (read_cut(rundir, number) for number in numbers)}


def make_cut(run: "RunFile", rundir: RunDirectory, pilots: Sequence[int], others: Sequence[int], number: int) -> Cut:
    """Return the cut of a round whose pilot is made, for its other shards; write it where it is not there.

    One that is there is never changed: shards were made by it. Raises RunDirectoryError where it is gone, and what the
    pilot says now is another one.
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
            f"{len(made)} shards were made by a cut that is gone, and the pilot does not give it again: restore "
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
        for row, scores in ((row, scores_of(row)) for row in rows)
        if row["accepted"] is not None and any(name.startswith(PREVIEW) for name in scores)
    ]


def _told(run: "RunFile", more: Mapping[str, Any]) -> "RunFile":
    """Return the run with an editor that knows what its previews are for."""
    found = early_editor(run)
    if found is None:
        return run
    name, config, early = found
    clip = early.model or thresholds_of(run).model
    told = PreviewingEditorConfig.model_validate({**dict(config), "clip": clip, **more})
    return run.model_copy(update={"stages": {**run.stages, name: told}})
