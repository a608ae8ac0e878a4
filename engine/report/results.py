"""Read the results of a run so far: markers, candidates, result files, predictions, and some of its pictures."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import RunDirectoryError
from engine.report.rows import Guess
from engine.rounds.allocation import Allocation, read_allocations
from engine.run.directory import EVALUATION, PHASE_LOG, REINFORCE, WEAKNESS, RunDirectory, rejected_path, shard_path
from engine.run.info import RunInfo
from engine.runfile.arms import BASE
from engine.runfile.run import RunFile
from engine.shards.marker import Marker

PHASES = ("plan", "generate", "allocate", "probe", "reinforce", "evaluate", "report")
WEAKNESS_PARTS = {"overall", "by_kind", "cells", "failure_points", "phrases", "calibration", "transfer"}
# At most so many bytes of shards are read for the few dozen pictures of a report.
PICTURE_BYTES = 512 * 2**20

# The content of a result file: a JSON object that another module wrote.
Content = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All inputs of the report but the pictures; None for a phase without results."""

    run: RunFile
    info: RunInfo
    markers: Mapping[int, Marker]
    candidates: pa.Table
    weakness: Content | None
    reinforce: Content | None
    evaluation: Content | None
    seconds: Mapping[str, float]
    allocations: Mapping[str, Allocation] = field(default_factory=dict)


def read_results(rundir: RunDirectory, run: RunFile) -> Results:
    """Read the results so far; RunDirectoryError where weakness.json was written by another version."""
    seconds = (_read_object(rundir, PHASE_LOG) or {}).get("seconds", {})
    return Results(
        run=run,
        info=rundir.info,
        markers=rundir.markers(),
        candidates=rundir.candidates(),
        weakness=_read_weakness(rundir),
        reinforce=_read_object(rundir, REINFORCE),
        evaluation=_read_object(rundir, EVALUATION),
        seconds={name: seconds[name] for name in sorted(seconds, key=[*PHASES, *seconds].index)},
        allocations=read_allocations(rundir, run.rounds),
    )


def picture_shards(markers: Mapping[int, Marker], budget: int = PICTURE_BYTES) -> list[int]:
    """Return shards spread evenly over the run with at most `budget` bytes of tars in total, at least one if any."""
    sizes = {index: _tar_bytes(marker) for index, marker in sorted(markers.items())}
    mean = max(sum(sizes.values()) / max(len(sizes), 1), 1.0)
    count = min(len(sizes), max(int(budget / mean), 1))
    indexes = list(sizes)
    return [indexes[place * len(indexes) // count] for place in range(count)] if count else []


def read_digests(results: Results) -> dict[str, str]:
    """Return the digests, folders under probe/, of the base classifier and of the arm that may ship, where known."""
    arms = (results.evaluation or {}).get("arms", {})
    digests = {BASE: results.weakness["digest"]} if results.weakness and "digest" in results.weakness else {}
    # Pictures show these two.
    shown = (BASE, results.run.reinforce.ships)
    return digests | {arm: arms[arm]["digest"] for arm in shown if "digest" in arms.get(arm, {})}


def read_guesses(
    rundir: RunDirectory, digests: Mapping[str, str], shards: Sequence[int]
) -> dict[str, dict[str, Guess]]:
    """Return each arm's predictions by sample key, from probe/<digest>/NNNNNN.parquet."""
    guesses: dict[str, dict[str, Guess]] = {}
    for arm, digest in digests.items():
        for path in (f"probe/{digest}/{index:06d}.parquet" for index in shards):
            if rundir.exists(path):
                table = pq.read_table(io.BytesIO(rundir.storage.read(path)))
                guesses.setdefault(arm, {}).update(_guesses(table, rundir.info.classes))
    return guesses


def _guesses(table: pa.Table, classes: Sequence[str]) -> dict[str, Guess]:
    columns = (table[name].to_pylist() for name in ("key", "prediction", "confidence", "label"))
    return {
        key: Guess(
            class_name=classes[prediction] if prediction < len(classes) else f"class {prediction}",
            confidence=confidence,
            right=prediction == label,
        )
        for key, prediction, confidence, label in zip(*columns, strict=True)
    }


def _tar_bytes(marker: Marker) -> int:
    files = (marker.files.get(path) for path in (shard_path(marker.shard), rejected_path(marker.shard)))
    return sum(file.bytes for file in files if file is not None)


def _read_weakness(rundir: RunDirectory) -> Content | None:
    content = _read_object(rundir, WEAKNESS)
    if content is not None and (missing_parts := WEAKNESS_PARTS - content.keys()):
        missing = ", ".join(sorted(missing_parts))
        raise RunDirectoryError(
            f"{rundir.storage.name(WEAKNESS)} has no {missing}, it was written by another version of Counterforge: "
            "run `counterforge probe` again"
        )
    return content


def _read_object(rundir: RunDirectory, name: str) -> Content | None:
    if not rundir.exists(name):
        return None
    content = rundir.read_json(name)
    return content if isinstance(content, dict) else None
