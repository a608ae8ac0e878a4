"""`make bench-demo`: the demo of this revision against that of another one, in turn, A-B-B-A.

Prints a table, writes build/figures/bench-demo.json. Each arm is `counterforge generate configs/wardrobe.yaml` in a
process of its own, start and end included, from the code of its revision, with the packages that are installed; or,
with `--command run`, the whole demo, two thirds of which are a training. Core time is that of the whole machine, which
should do nothing else.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.figures.figures import Figure, describe, machine, share, table, write_figures
from tests.benchmarks.pairs import core_seconds

COMMAND = "bench-demo"
HERE = Path(__file__).parents[2]
DEMO = "configs/wardrobe.yaml"
COUNTERFORGE = "import sys; from cluster.cli.main import main; sys.exit(main())"
PICTURES, EDIT = (".jpg", ".png"), "_cf"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Hold one run of a demo: its seconds, what all cores worked meanwhile, its pictures by name, accepted edits."""

    seconds: float
    core_s: float
    pictures: dict[str, bytes]
    accepted: frozenset[str]


def demo_figures(here: Path, other: Path, folder: Path, command: Sequence[str]) -> Iterator[Figure]:
    """Yield how many times as fast the demo `here` is as the `other` one, and whether both make the same."""
    runs = [run_demo(code, folder / f"{number}", command) for number, code in enumerate([here, other, other, here], 1)]
    ours, theirs = runs[::3], runs[1:3]
    yield _times("demo.times", [run.seconds for run in ours], [run.seconds for run in theirs])
    yield _times("demo.times_by_core_time", [run.core_s for run in ours], [run.core_s for run in theirs])
    yield Figure(name="demo.seconds", value=statistics.mean(run.seconds for run in ours), n=len(ours), unit="s")
    yield Figure(name="demo.seconds_before", value=statistics.mean(run.seconds for run in theirs), n=2, unit="s")
    one, two = ours[0], theirs[0]
    assert one.pictures == ours[1].pictures
    assert two.pictures == theirs[1].pictures
    names = one.pictures.keys() | two.pictures.keys()
    same = sum(one.pictures.get(name) == two.pictures.get(name) for name in names)
    yield share("demo.same_pictures", same, len(names))
    for name, run in (("demo.accepted", one), ("demo.accepted_before", two)):
        yield share(name, len(run.accepted), sum(EDIT in picture for picture in run.pictures))


def run_demo(code: Path, out: Path, command: Sequence[str]) -> Run:
    """Run the demo of a checkout. Raises CalledProcessError with what it said, where it fails."""
    before, start = core_seconds(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", COUNTERFORGE, *command, "--out", str(out)],
        cwd=code,
        env=os.environ | {"PYTHONPATH": str(code)},
        check=True,
    )
    seconds, core_s = time.perf_counter() - start, core_seconds() - before
    accepted = dict(_pictures(out / "shards"))
    return Run(
        seconds=seconds,
        core_s=core_s,
        pictures=accepted | dict(_pictures(out / "rejected")),
        accepted=frozenset(name for name in accepted if EDIT in name),
    )


def _times(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Return the ratio of the sums, with the smallest and the largest ratio of two runs."""
    pairs = [slow / fast for slow in theirs for fast in ours]
    return Figure(name=name, value=sum(theirs) / sum(ours), low=min(pairs), high=max(pairs), n=2, unit="times")


def _pictures(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(PICTURES) and (file := archive.extractfile(member)) is not None:
                    yield member.name, file.read()


def main() -> None:
    """Check the other revision out, run both, print the figures and write them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.demo", description=__doc__)
    parser.add_argument("--against", required=True, help="a revision, such as one of before")
    parser.add_argument("--command", choices=["generate", "run"], default="generate")
    parser.add_argument("--set", action="append", default=[], help="a setting of the run file, for both")
    options = parser.parse_args()
    settings = [part for setting in options.set for part in ("--set", setting)]
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, "other")
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(other), options.against], check=True)
        try:
            figures = list(demo_figures(HERE, other, Path(folder), [options.command, DEMO, *settings]))
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    print(table(figures))
    print(f"\nAgainst {options.against}. {describe(machine())}\n{write_figures(COMMAND, figures)}")


if __name__ == "__main__":
    main()
