"""A rare weakness: one to four classes have a value of their own, among twenty values of three kinds of edits.

With few edits the probe must earn its keep: edits allocated and drawn by weakness against as many at random.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.studies.proofs.planted.plants import draw_plant
from cluster.studies.proofs.rounds import num_train_images
from cluster.studies.proofs.seeds import mean_over_seeds
from cluster.studies.proofs.worlds.world import (
    RANDOM,
    REINFORCED,
    Size,
    World,
    copy_shard,
    open_world,
    right_by_arm,
)
from engine.figures.figures import Figure
from engine.run.directory import RunDirectory
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
SOURCES_PER_SHARD = 5
# As many rows at a time as a shard has edits and placebos: others would be filled up.
NUM_ROWS = SOURCES_PER_SHARD * (sum(EDITS.values()) + 1)
SHARDS = f"shards.sources_per_shard={SOURCES_PER_SHARD}", f"stages.editor.batch_size={NUM_ROWS}"
# Guided: what validation edits show decides where those of train sources are spent.
NUM_ROUNDS = {"uniform": 1, "guided": 2}
# Guided by the probe: allocation and drawing, drawing alone, allocation alone. All against uniform and alike.
GUIDED = {
    "guided": ("guided", REINFORCED),
    "drawing_alone": ("uniform", REINFORCED),
    "allocation_alone": ("guided", RANDOM),
}
AGAINST = ("uniform", RANDOM)
# The others are parts of it.
CLAIM = "guided"
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
    counts = {name: num_edited(size, per_source) for name, per_source in budgets.items()}
    first = run_name("uniform", next(iter(counts.values())))
    for name, num_sources in counts.items():
        edited = replace(size, num_sources=num_sources)
        found = [run_seed(folder / f"rare-{seed}", seed, edited, first) for seed in seeds]
        for way, arm in found[0].broken:
            yield mean_over_seeds(f"rare.broken.{way}.{arm}.{name}", [each.broken[way, arm] for each in found])
            yield mean_over_seeds(f"rare.kept.{way}.{arm}.{name}", [each.kept[way, arm] for each in found])
        for figure, guided in GUIDED.items():
            differences = [each.broken[guided] - each.broken[AGAINST] for each in found]
            is_claim = figure == CLAIM
            ahead = mean_over_seeds(f"rare.ahead.{figure}.{name}", differences, target=0.0 if is_claim else None)
            yield ahead
            if is_claim and ahead.low is not None:
                yield Figure(name=f"{ahead.name}.low", value=ahead.low, target=0.0, better="higher", n=ahead.n)
        for way in NUM_ROUNDS:
            yield mean_over_seeds(f"rare.generated_images.{way}.{name}", [each.images[way] for each in found])


def num_edited(size: Size, per_source: float) -> int:
    """Return the number of sources to edit, so that the pool has so many edits a source."""
    return round(size.num_sources * per_source / sum(EDITS.values()))


def run_name(way: str, num_sources: int) -> str:
    """Return the folder of a run in that of its seed."""
    return f"{way}-{num_sources}"


def run_seed(root: Path, seed: int, size: Size, first: str) -> Result:
    """Return the result of one seed and budget; the classifier under test is the same in both allocations.

    The edits of validation sources are those of the run `first`, which are made once a seed.
    """
    plant, garments, heldout = draw_plant(seed), load_garments("sources"), load_garments("heldout")
    scenes = list(plant.apply(make_scenes(garments, "rare", size.num_composites, seed=seed), seed))
    kept = list(replace(plant, strength=1.0).apply(make_scenes(heldout, "rare", size.num_tested), seed))
    broken = list(plant.broken(kept, seed))
    accuracies: dict[str, dict[tuple[str, str], float]] = {"broken": {}, "kept": {}}
    images: dict[str, int] = {}
    for way, count in NUM_ROUNDS.items():
        name = run_name(way, size.num_sources)
        world = open_world(root, seed, scenes, size, (*SETTINGS, *SHARDS, f"rounds={{count: {count}}}"), name)
        if name != first:
            copy_validation(RunDirectory.open(str(root / first)), world)
        classifiers = world.fine_tune()
        for where, tested in (("broken", broken), ("kept", kept)):
            for arm, right in right_by_arm(classifiers, tested).items():
                accuracies[where][way, arm] = float(right.mean())
        images[way] = num_train_images(world.rundir)
    print(f"rare, seed {seed}, {plant}, {size.num_sources} sources: {rounded(accuracies)}", flush=True)
    return Result(**accuracies, images=images)


def copy_validation(source: RunDirectory, world: World) -> None:
    """Commit the validation shards that another run of the seed has made: they have the same sources and edits."""
    plan = source.plan()
    made = {tuple(plan.keys(index)): index for index in source.done() if index >= plan.num_train_shards}
    for index in world.rundir.pending():
        if (keys := tuple(world.plan.keys(index))) in made:
            copy_shard(source, made[keys], world.rundir, index)


def rounded(accuracies: Mapping[str, Accuracies]) -> str:
    """Return the accuracies in words, for the log."""
    return "; ".join(
        f"{name}: " + ", ".join(f"{' '.join(key)} {value:.3f}" for key, value in found.items())
        for name, found in accuracies.items()
    )
