"""The edits that a study asks classifiers about, made once."""

from collections.abc import Sequence
from pathlib import Path

from cluster.phases.pipeline import digest_of, model_stamp, open_run, run_phases
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile

RUN_FILE = Path("configs/proofs.yaml")
ZOO = ("zoo/captioner", "zoo/perturber", "zoo/editor", "zoo/verifier")


def make_edits(folder: Path, run: RunFile, zoo: Sequence[str] = ZOO) -> RunDirectory:
    """Return the run directory of the edits, made once for one state of the zoo's models that make them."""
    stamp = digest_of([model_stamp(name) for name in zoo])[:8]
    rundir, plan = open_run(run, str(folder / f"{run.name}-{stamp}"))
    run_phases(("generate",), run, rundir, plan)
    return rundir
