"""Removal by cut and paste: is a ball found that sandals were learned by, and does its control change nothing?"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cluster.studies.proofs.edits import make_edits
from cluster.studies.proofs.planted.plants import Plant
from cluster.studies.proofs.planted.probe import Outcome, Sort, Trial, examine_all, figures_of
from cluster.studies.proofs.seeds import mean_over_seeds
from engine.figures.figures import Figure
from engine.probe.weakness import WeaknessCell
from engine.runfile.load import load_run_file
from engine.runfile.perturber import REMOVAL
from engine.wardrobe.garments import CLASSES

RUN_FILE = Path("configs/removal.yaml")
ZOO = ("zoo/segmenter", "zoo/eyes")
SANDAL, BALL = CLASSES.index("sandal"), "ball"
# Of the shortcut; and the steps in which it is learned, which a thing takes more of than a ground.
WEAKEST, NUM_STEPS = 0.95, 300
MOST_LOST = 0.02


def removal_figures(folder: Path, num_patients: int) -> Iterator[Figure]:
    """Yield the figures of classifiers that learned sandals by a ball beside them, and of clean ones.

    Both see a thing beside every garment. The run takes away one thing a source; its placebo has a box filled.
    """
    rundir = make_edits(folder, load_run_file(RUN_FILE), ZOO)
    trials = [
        *(_trial("planted", seed, ball_plant(seed)) for seed in range(num_patients)),
        *(_trial("clean", 100 + seed, None) for seed in range(num_patients)),
    ]
    outcomes = examine_all(folder, [rundir] * len(trials), trials)
    yield from figures_of("removal", outcomes)
    yield from _drops(outcomes)


def ball_plant(seed: int) -> Plant:
    """Return plant number `seed`: sandals have the ball, all else hardly ever."""
    strength = float(np.random.default_rng((8, seed)).uniform(WEAKEST, 1))
    return Plant(attribute="thing", tied={SANDAL: BALL}, strength=strength)


def _trial(sort: Sort, seed: int, plant: Plant | None) -> Trial:
    return Trial(sort=sort, seed=seed, plant=plant, num_steps=NUM_STEPS, has_thing=True)


def _drops(outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    """Yield what is lost where sandals lose their ball, and where a box as large is filled beside it instead."""
    planted = [outcome.table for outcome in outcomes if outcome.trial.sort == "planted"]
    cells = [cell for table in planted for cell in table.cells if _is_ball_of_sandals(cell)]
    if cells:
        yield mean_over_seeds("removal.planted.ball_drop", [cell.measures["accuracy_drop"].value for cell in cells])
        yield mean_over_seeds(
            "removal.planted.box_drop",
            [cell.measures["artefact_drop"].value for cell in cells],
            target=MOST_LOST,
            better="lower",
        )


def _is_ball_of_sandals(cell: WeaknessCell) -> bool:
    return (cell.class_name, cell.kind, cell.after) == (CLASSES[SANDAL], REMOVAL, f"no {BALL}")
