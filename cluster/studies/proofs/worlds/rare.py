"""A rare weakness: one to four classes have a value of their own, among twenty values of three kinds of edits.

With few edits the probe must earn its keep: edits allocated in rounds and drawn by weakness against as many at random.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.studies.proofs.plants import draw_plant
from cluster.studies.proofs.rounds import num_train_images
from cluster.studies.proofs.seeds import mean_over_seeds
from cluster.studies.proofs.worlds.world import RANDOM, REINFORCED, Size, open_world, right_by_arm
from engine.figures.figures import Figure
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import make_scenes

# `num_sources` is the pool; its share in PER_SOURCE is the number of generated edits.
SIZE = Size(num_composites=3000, num_sources=720, num_validation_sources=60, num_patient_steps=150, num_steps=100)
PER_SOURCE = {"1_8": 1 / 8, "1_4": 1 / 4, "1_2": 1 / 2}
# Eight backgrounds, eight colours and four lights: what the zoo's editor draws.
EDITS = {"background": 1, "colour": 1, "lighting": 1}
SETTINGS = (
    f"stages.perturber.edits={EDITS}",
    # The zoo's verifier is worse at lighting: at the demo's threshold it rejects every such edit.
    "stages.verifier.min_directional=0.4",
    f"reinforce.arms=[{RANDOM}, {REINFORCED}]",
)
NUM_ROUNDS = {"uniform": 1, "guided": 3}
# Guided by the probe: allocation and drawing, drawing alone, allocation alone. All against uniform and alike.
GUIDED = {
    "guided": ("guided", REINFORCED),
    "drawing_alone": ("uniform", REINFORCED),
    "allocation_alone": ("guided", RANDOM),
}
AGAINST = ("uniform", RANDOM)
# By the allocation of the edits and the arm.
Accuracies = Mapping[tuple[str, str], float]


def rare_figures(
    folder: Path, seeds: Sequence[int], size: Size = SIZE, budgets: Mapping[str, float] = PER_SOURCE
) -> Iterator[Figure]:
    """Yield for each budget the accuracies on images that break the plant, and how far guidance is ahead of none."""
    for name, per_source in budgets.items():
        found = [
            run_seed(folder / f"rare-{seed}", seed, replace(size, num_sources=num_edited(size, per_source)))
            for seed in seeds
        ]
        broken = [accuracies for accuracies, _ in found]
        for way, arm in broken[0]:
            yield mean_over_seeds(f"rare.broken_accuracy.{way}.{arm}.{name}", [each[way, arm] for each in broken])
        for figure, guided in GUIDED.items():
            ahead = mean_over_seeds(
                f"rare.ahead.{figure}.{name}", [each[guided] - each[AGAINST] for each in broken], target=0.0
            )
            yield ahead
            if ahead.low is not None:
                yield Figure(name=f"{ahead.name}.low", value=ahead.low, target=0.0, better="higher", n=ahead.n)
        for way in NUM_ROUNDS:
            yield mean_over_seeds(f"rare.generated_images.{way}.{name}", [images[way] for _, images in found])


def num_edited(size: Size, per_source: float) -> int:
    """Return the number of sources to edit, so that the pool has so many edits a source."""
    return round(size.num_sources * per_source / sum(EDITS.values()))


def run_seed(root: Path, seed: int, size: Size) -> tuple[Accuracies, Mapping[str, int]]:
    """Return the accuracies of one seed and budget on images that break the plant, and the number of train images."""
    plant, broken_images = draw_plant(seed), {}
    garments, heldout = load_garments("sources"), load_garments("heldout")
    scenes = list(plant.apply(make_scenes(garments, "rare", size.num_composites, seed=seed), seed))
    broken = list(plant.broken(make_scenes(heldout, "rare", size.num_tested), seed))
    accuracies: dict[tuple[str, str], float] = {}
    for way, count in NUM_ROUNDS.items():
        settings = (
            *SETTINGS,
            f"rounds={{count: {count}}}",
            f"shards.sources_per_shard={max(1, size.num_sources // 6)}",
        )
        world = open_world(root, seed, scenes, size, settings, f"{way}-{size.num_sources}")
        right = right_by_arm(world.fine_tune(), broken)
        accuracies |= {(way, arm): float(found.mean()) for arm, found in right.items()}
        broken_images[way] = num_train_images(world.rundir)
    print(
        f"rare, seed {seed}, {plant}:",
        {" ".join(key): round(value, 3) for key, value in accuracies.items()},
        flush=True,
    )
    return accuracies, broken_images
