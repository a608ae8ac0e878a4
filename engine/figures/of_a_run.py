"""Turn a finished run's summary into figures, so that a README's table of it is filled and not typed."""

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from engine.errors import EngineError, RunDirectoryError
from engine.figures.figures import FIGURES_FOLDER, Figure, describe, machine, share, table, write_figures
from engine.report.page import SUMMARY, result_picture
from engine.report.summary import Summary
from engine.run.directory import RunDirectory

HEADLINES = ("conflict_accuracy", "worst_group_accuracy", "accuracy_biased")
PICTURE_ROWS = 4
# 120 KB for four rows; as PNG, and with six, it was 780.
JPEG_QUALITY = 80


def run_figures(summary: Summary) -> Iterator[Figure]:
    """Yield accuracies by arm, the weakness by kind of edit, what became of the candidates, seconds by phase."""
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


def main() -> int:
    """Write a finished run's figures and a picture of its first rows to build/figures; print the figures."""
    parser = argparse.ArgumentParser(prog="python -m engine.figures.of_a_run", description=main.__doc__)
    parser.add_argument("run", help="run directory with a report")
    parser.add_argument("--name", default="demo", help="which command they are of; names the JSON file")
    parser.add_argument("--out", type=Path, default=FIGURES_FOLDER, help="folder of the JSON file")
    arguments = parser.parse_args()
    try:
        rundir = RunDirectory.open(arguments.run)
        if not rundir.exists(SUMMARY):
            raise RunDirectoryError(f"{arguments.run} has no {SUMMARY} yet: run `counterforge report` first")
        figures = list(run_figures(json.loads(rundir.storage.read(SUMMARY))))
        path = write_figures(arguments.name, figures, arguments.out)
        picture = path.with_suffix(".jpg")
        with Image.open(io.BytesIO(result_picture(rundir, rundir.run(), PICTURE_ROWS))) as sheet:
            sheet.save(picture, "JPEG", quality=JPEG_QUALITY, optimize=True)
    except (EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{table(figures)}\n\n{describe(machine())}\n{path}\n{picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
