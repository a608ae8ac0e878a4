"""Total conflict: every training image stands on its class's background, so that no image contradicts the shortcut."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cluster.studies.proofs.seeds import mean_over_seeds
from cluster.studies.proofs.worlds.world import ARMS, REINFORCED, Size, conflict_accuracy, open_world, right_by_arm
from engine.figures.figures import Figure
from engine.runfile.arms import BASE, PRESETS
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import make_scenes

SIZE = Size()
MEASURES = ("conflict_accuracy", "worst_group_accuracy", "biased_accuracy")
MIN_GAIN, MOST_WITHOUT_EDITS = 0.4, 0.05

Accuracies = Mapping[str, Mapping[str, float]]


def total_figures(
    folder: Path, seeds: Sequence[int], size: Size = SIZE, arms: Sequence[str] = ARMS
) -> Iterator[Figure]:
    """Yield each arm's accuracies, its gain on conflict images, and the biased accuracy that `reinforced` loses."""
    found = [run_seed(folder / f"total-{seed}", seed, size, arms) for seed in seeds]
    for measure in MEASURES:
        for arm in (BASE, *arms):
            yield mean_over_seeds(f"total.{measure}.{arm}", [each[arm][measure] for each in found])

    def gains(arm: str) -> list[float]:
        return [each[arm]["conflict_accuracy"] - each[BASE]["conflict_accuracy"] for each in found]

    yield mean_over_seeds(f"total.gain.{REINFORCED}", gains(REINFORCED), target=MIN_GAIN)
    without_edits = [arm for arm in arms if PRESETS[arm].is_baseline]
    for arm in without_edits:
        yield mean_over_seeds(f"total.gain.{arm}", gains(arm), target=MOST_WITHOUT_EDITS, better="lower")
    largest = [max(values) for values in zip(*map(gains, without_edits), strict=True)]
    yield mean_over_seeds("total.gain.largest_without_edits", largest, target=MOST_WITHOUT_EDITS, better="lower")
    lost = [each[BASE]["biased_accuracy"] - each[REINFORCED]["biased_accuracy"] for each in found]
    yield mean_over_seeds("total.biased_accuracy_lost", lost)


def run_seed(root: Path, seed: int, size: Size, arms: Sequence[str]) -> Accuracies:
    """Return the accuracies of each arm of one seed on garments that nothing was trained on."""
    scenes = list(make_scenes(load_garments("sources"), "total", size.num_composites, correlation=1.0, seed=seed))
    settings = ("stages.perturber.edits={background: 1, colour: 1}", f"reinforce.arms=[{', '.join(arms)}]")
    classifiers = open_world(root, seed, scenes, size, settings).fine_tune()
    heldout = load_garments("heldout")
    balanced, biased = (
        list(make_scenes(heldout, "total", size.num_tested, correlation=correlation)) for correlation in (None, 1.0)
    )
    on_biased = right_by_arm(classifiers, biased)
    groups = np.array([f"{scene.label} {scene.background}" for scene in balanced])
    found = {
        arm: {
            "conflict_accuracy": conflict_accuracy(right, balanced),
            "worst_group_accuracy": float(min(right[groups == group].mean() for group in np.unique(groups))),
            "biased_accuracy": float(on_biased[arm].mean()),
        }
        for arm, right in right_by_arm(classifiers, balanced).items()
    }
    print(
        f"total, seed {seed}:",
        {arm: {name: round(value, 3) for name, value in each.items()} for arm, each in found.items()},
        flush=True,
    )
    return found
