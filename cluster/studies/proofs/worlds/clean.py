"""The control of all worlds: a classifier without a planted weakness, which fine-tuning on edits must not harm."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cluster.studies.proofs.seeds import mean_over_seeds
from cluster.studies.proofs.worlds.rare import SETTINGS
from cluster.studies.proofs.worlds.world import REINFORCED, WITH_EDITS, Size, open_world, right_by_arm
from engine.figures.figures import Figure
from engine.runfile.arms import BASE
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import make_scenes

SIZE = Size()
MOST_LOST = 0.01


def clean_figures(folder: Path, seeds: Sequence[int], size: Size = SIZE) -> Iterator[Figure]:
    """Yield the accuracy on held-out images before and after the arms with edits, and what `reinforced` loses."""
    found = [run_seed(folder / f"clean-{seed}", seed, size) for seed in seeds]
    for arm in (BASE, *WITH_EDITS):
        yield mean_over_seeds(f"clean.accuracy.{arm}", [each[arm] for each in found])
    for arm in WITH_EDITS:
        target = MOST_LOST if arm == REINFORCED else None
        lost = [each[BASE] - each[arm] for each in found]
        yield mean_over_seeds(f"clean.accuracy_lost.{arm}", lost, target=target, better="lower")


def run_seed(root: Path, seed: int, size: Size) -> Mapping[str, float]:
    """Return the accuracies of one seed, every class equally often with every background, colours at random."""
    scenes = list(make_scenes(load_garments("sources"), "clean", size.num_composites, seed=seed))
    classifiers = open_world(root, seed, scenes, size, SETTINGS).fine_tune()
    tested = list(make_scenes(load_garments("heldout"), "clean", size.num_tested))
    found = {arm: float(right.mean()) for arm, right in right_by_arm(classifiers, tested).items()}
    print(f"clean, seed {seed}: {found}", flush=True)
    return found
