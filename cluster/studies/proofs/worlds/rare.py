"""A rare weakness: one to four classes have a value of their own, among twenty values of three kinds of edits.

With few edits the probe must earn its keep: edits allocated in rounds and drawn by weakness against as many at random.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    # At 1/8 edit a source nine sources of a class have edits: with ten its row would not be in the weakness table.
    "probe.min_sources=5",
    f"reinforce.arms=[{RANDOM}, {REINFORCED}]",
)
NUM_ROUNDS = {"uniform": 1, "guided": 3}
# Of one call of the demo's editor.
MOST_ROWS = 80
# Guided by the probe: allocation and drawing, drawing alone, allocation alone. All against uniform and alike.
GUIDED = {
    "guided": ("guided", REINFORCED),
    "drawing_alone": ("uniform", REINFORCED),
    "allocation_alone": ("guided", RANDOM),
}
AGAINST = ("uniform", RANDOM)
# By the allocation of the edits and the arm.
Accuracies = Mapping[tuple[str, str], float]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Accuracies on held-out images that break the plant and that keep it, and the train images by allocation."""

    broken: Accuracies
    kept: Accuracies
    images: Mapping[str, int]


def rare_figures(
    folder: Path, seeds: Sequence[int], size: Size = SIZE, budgets: Mapping[str, float] = PER_SOURCE
) -> Iterator[Figure]:
    """Yield for each budget the accuracies on images that break the plant, and how far guidance is ahead of none."""
    for name, per_source in budgets.items():
        edited = replace(size, num_sources=num_edited(size, per_source))
        found = [run_seed(folder / f"rare-{seed}", seed, edited) for seed in seeds]
        for way, arm in found[0].broken:
            yield mean_over_seeds(f"rare.broken.{way}.{arm}.{name}", [each.broken[way, arm] for each in found])
            yield mean_over_seeds(f"rare.kept.{way}.{arm}.{name}", [each.kept[way, arm] for each in found])
        for figure, guided in GUIDED.items():
            differences = [each.broken[guided] - each.broken[AGAINST] for each in found]
            ahead = mean_over_seeds(f"rare.ahead.{figure}.{name}", differences, target=0.0)
            yield ahead
            if ahead.low is not None:
                yield Figure(name=f"{ahead.name}.low", value=ahead.low, target=0.0, better="higher", n=ahead.n)
        for way in NUM_ROUNDS:
            yield mean_over_seeds(f"rare.generated_images.{way}.{name}", [each.images[way] for each in found])


def num_edited(size: Size, per_source: float) -> int:
    """Return the number of sources to edit, so that the pool has so many edits a source."""
    return round(size.num_sources * per_source / sum(EDITS.values()))


def run_seed(root: Path, seed: int, size: Size) -> Result:
    """Return the result of one seed and budget; the classifier under test is the same in both allocations."""
    plant, garments, heldout = draw_plant(seed), load_garments("sources"), load_garments("heldout")
    scenes = list(plant.apply(make_scenes(garments, "rare", size.num_composites, seed=seed), seed))
    kept = list(replace(plant, strength=1.0).apply(make_scenes(heldout, "rare", size.num_tested), seed))
    broken = list(plant.broken(kept, seed))
    accuracies: dict[str, dict[tuple[str, str], float]] = {"broken": {}, "kept": {}}
    images: dict[str, int] = {}
    # Three rounds of as many shards.
    per_shard = max(1, size.num_sources // 6)
    # No more rows at a time than a shard has edits and placebos: others would be filled up.
    num_rows = min(MOST_ROWS, per_shard * (sum(EDITS.values()) + 1))
    shards = f"shards.sources_per_shard={per_shard}", f"stages.editor.batch_size={num_rows}"
    for way, count in NUM_ROUNDS.items():
        settings = (*SETTINGS, f"rounds={{count: {count}}}", *shards)
        world = open_world(root, seed, scenes, size, settings, f"{way}-{size.num_sources}")
        classifiers = world.fine_tune()
        for name, tested in (("broken", broken), ("kept", kept)):
            for arm, right in right_by_arm(classifiers, tested).items():
                accuracies[name][way, arm] = float(right.mean())
        images[way] = num_train_images(world.rundir)
    print(f"rare, seed {seed}, {plant}, {size.num_sources} sources: {rounded(accuracies)}", flush=True)
    return Result(**accuracies, images=images)


def rounded(accuracies: Mapping[str, Accuracies]) -> str:
    """Return the accuracies in words, for the log."""
    return "; ".join(
        f"{name}: " + ", ".join(f"{' '.join(key)} {value:.3f}" for key, value in found.items())
        for name, found in accuracies.items()
    )
