"""Two shortcuts: four classes have a background and a colour of their own. Does curing one make the other worse?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.studies.proofs.planted.plants import MOST_CLASSES, VALUES, Attribute, Plant
from cluster.studies.proofs.seeds import mean_over_seeds
from cluster.studies.proofs.worlds.world import ORACLE, WITH_EDITS, Size, open_world, right_by_arm
from engine.figures.figures import Figure
from engine.runfile.arms import BASE
from engine.wardrobe.garments import CLASSES, load_garments
from engine.wardrobe.scene import LIGHTS, Scene, make_scenes

SIZE = Size()
STRENGTH = 0.98
ARMS = ("real_only", "recombine", *WITH_EDITS, ORACLE)
# The tied kinds, and one that is tied to nothing.
KINDS = ("background", "colour", "lighting")
# By arm and kind: the accuracy lost where the kind is broken and all else kept.
Drops = Mapping[str, Mapping[str, float]]


def two_figures(folder: Path, seeds: Sequence[int], size: Size = SIZE, arms: Sequence[str] = ARMS) -> Iterator[Figure]:
    """Yield the drop of each kind before and after each arm, and its change, which should be at most its error."""
    found = [run_seed(folder / f"two-{seed}", seed, size, arms) for seed in seeds]
    for kind in KINDS:
        for arm in (BASE, *arms):
            yield mean_over_seeds(f"two.drop.{kind}.{arm}", [each[arm][kind] for each in found])
    for kind in KINDS:
        for arm in arms:
            change = mean_over_seeds(f"two.change.{kind}.{arm}", [each[arm][kind] - each[BASE][kind] for each in found])
            error = None if change.high is None or arm == ORACLE else change.high - change.value
            yield replace(change, target=error, better=None if error is None else "lower")


def draw_plants(seed: int) -> tuple[Plant, Plant]:
    """Return a plant in the backgrounds and one in the colours of the same classes."""
    rng = np.random.default_rng((8, seed))
    labels = rng.choice(len(CLASSES), MOST_CLASSES, replace=False).tolist()

    def plant(attribute: Attribute) -> Plant:
        values = rng.choice(VALUES[attribute], MOST_CLASSES, replace=False).tolist()
        return Plant(attribute=attribute, tied=dict(zip(labels, values, strict=True)), strength=STRENGTH)

    return plant("background"), plant("colour")


def tested_scenes(plants: Sequence[Plant], size: Size) -> dict[str, list[Scene]]:
    """Return composites with every correlation kept, and the same with each kind broken and the others kept."""
    kept: list[Scene] = list(make_scenes(load_garments("heldout"), "two", size.num_tested))
    for plant in plants:
        kept = list(replace(plant, strength=1.0).apply(kept, 0))
    rng = np.random.default_rng(0)
    lights = rng.choice([light for light in LIGHTS if light != "plain"], len(kept)).tolist()
    in_other_light = [replace(scene, light=light) for scene, light in zip(kept, lights, strict=True)]
    broken: dict[str, list[Scene]] = {plant.attribute: list(plant.broken(kept, 0)) for plant in plants}
    return {"kept": kept, **broken, "lighting": in_other_light}


def run_seed(root: Path, seed: int, size: Size, arms: Sequence[str]) -> Drops:
    """Return the drops of one seed."""
    plants = draw_plants(seed)
    scenes: list[Scene] = list(make_scenes(load_garments("sources"), "two", size.num_composites, seed=seed))
    for plant in plants:
        scenes = list(plant.apply(scenes, seed))
    settings = (
        "stages.perturber.edits={background: 1, colour: 1}",
        "report.group_by=[background, colour]",
        f"reinforce.arms=[{', '.join(arms)}]",
    )
    classifiers = open_world(root, seed, scenes, size, settings).fine_tune()
    right = {kind: right_by_arm(classifiers, chosen) for kind, chosen in tested_scenes(plants, size).items()}
    found = {
        arm: {kind: float(right["kept"][arm].mean() - right[kind][arm].mean()) for kind in KINDS} for arm in classifiers
    }
    print(
        f"two, seed {seed}:",
        {arm: {kind: round(value, 3) for kind, value in each.items()} for arm, each in found.items()},
        flush=True,
    )
    return found
