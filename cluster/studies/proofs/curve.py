"""Scaling curve: one run with eight counterfactuals a source, and trainings on shares of them."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.phases.pipeline import run_phases
from cluster.phases.reinforce import reinforce_run
from cluster.session.placement import reinforce_needs
from cluster.session.session import ray_session
from cluster.studies.proofs.reinforce import open_seed
from cluster.studies.proofs.seeds import mean_over_seeds
from cluster.studies.proofs.shifted import Shifted
from engine.figures.figures import Figure
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile

NUM_SOURCES = 800
EDITS = {"background": 4, "colour": 4}
# Mean number of counterfactuals a source, by the name in the figure.
PER_SOURCE = {"1_8": 1 / 8, "1_4": 1 / 4, "1_2": 1 / 2, "1": 1.0, "2": 2.0, "4": 4.0, "8": 8.0}
# Results that each training writes itself.
OWN = ("models", "checkpoints", "tensorboard", "reinforce.json", "evaluation.json", "phases.json", "report")


def curve_figures(folder: Path, seeds: Sequence[int]) -> Iterator[Figure]:
    """Yield the accuracy on conflict images after training on so many edits of each source."""
    found: dict[str, list[float]] = {name: [] for name in PER_SOURCE}
    for seed in seeds:
        settings = (f"stages.perturber.edits={EDITS}", "reinforce.arms=[reinforced]")
        run, rundir, plan = open_seed(folder, "curve", seed, NUM_SOURCES, settings)
        run_phases(("generate", "allocate", "probe"), run, rundir, plan)
        with ray_session([reinforce_needs(run.reinforce)]):
            for name, count in PER_SOURCE.items():
                found[name].append(_conflict_accuracy(run, rundir, name, count / sum(EDITS.values())))
                print(f"seed {seed}: {name} a source: {found[name][-1]:.3f}", flush=True)
    for name, accuracies in found.items():
        yield mean_over_seeds(f"curve.conflict_accuracy.{name}_a_source", accuracies)


def _conflict_accuracy(run: RunFile, whole: RunDirectory, name: str, share: float) -> float:
    """Return the conflict accuracy of the arm `reinforced`, trained on a share of the edits."""
    root = whole.storage.local_path("")
    copied = root.with_name(f"{root.name}-{name}")
    if not copied.exists():
        # Hard links: the shards are the same files.
        shutil.copytree(root, copied, copy_function=os.link, ignore=shutil.ignore_patterns(*OWN))
    settings = run.reinforce.model_copy(update={"edit_share": share})
    run, rundir = run.model_copy(update={"reinforce": settings}), RunDirectory.open(str(copied))
    reinforce_run(run, rundir)
    conflict = Shifted.of(run, rundir).evaluate(run, rundir).report.conflict
    assert conflict is not None
    return conflict.correct / conflict.n
