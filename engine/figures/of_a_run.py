"""The figures of a finished run, from its summary, and a picture of its first rows."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from engine.errors import RunDirectoryError
from engine.figures.figures import Figure, share, write_figures
from engine.report.page import SUMMARY, result_picture
from engine.report.summary import Summary
from engine.run.directory import RunDirectory

HEADLINES = ("conflict_accuracy", "worst_group_accuracy", "accuracy_biased")
PICTURE_ROWS = 4
# 120 KB for four rows; as PNG, and with six, it was 780.
JPEG_QUALITY = 80


def write_run_figures(run: str, name: str, folder: Path) -> tuple[list[Figure], Path]:
    """Write `folder`/`name`.json and .jpg of a run directory that has a report; return the figures and the JSON's path.

    Raises RunDirectoryError where the report is missing.
    """
    rundir = RunDirectory.open(run)
    if not rundir.exists(SUMMARY):
        raise RunDirectoryError(f"{run} has no {SUMMARY} yet: run `counterforge report` first")
    figures = list(run_figures(json.loads(rundir.storage.read(SUMMARY))))
    path = write_figures(name, figures, folder)
    with Image.open(io.BytesIO(result_picture(rundir, rundir.run(), PICTURE_ROWS))) as sheet:
        sheet.save(path.with_suffix(".jpg"), "JPEG", quality=JPEG_QUALITY, optimize=True)
    return figures, path


def run_figures(summary: Summary) -> Iterator[Figure]:
    """Yield accuracies by arm, weakness by kind of edit, shares of candidates by outcome, seconds by phase."""
    for name in HEADLINES:
        for arm, found in summary[name].items():
            if found is not None:
                values = {key: found[key] for key in ("value", "low", "high", "n")}
                yield Figure(name=f"{name}.{arm}", **values)
    yield from _weakness_figures((summary["weakness"] or {}).get("by_kind", []))
    counts = summary["counts"]
    yield share("candidates.accepted", counts["accepted"], counts["candidates"])
    yield share("candidates.rejected", sum(counts["rejected"].values()), counts["candidates"])
    yield share("candidates.quarantined", counts["quarantined_candidates"], counts["candidates"])
    for phase, seconds in summary["seconds"].items():
        yield Figure(name=f"seconds.{phase}", value=seconds, unit="s")
    yield Figure(name="seconds.all", value=sum(summary["seconds"].values()), unit="s")


def _weakness_figures(by_kind: Sequence[Summary]) -> Iterator[Figure]:
    for cell in by_kind:
        for measure in ("corrected_drop", "artefact_drop"):
            if cell.get(measure) is not None:
                yield Figure(
                    name=f"weakness.{cell['kind']}.{measure}",
                    value=cell[measure],
                    low=cell[f"{measure}_low"],
                    high=cell[f"{measure}_high"],
                    n=cell["n_sources"],
                )
