"""Noisy verification: a share of the accepted edits has lost its garment, so that the label is wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cluster.phases.pipeline import open_run, run_phases
from cluster.studies.proofs.planted.plants import VALUES
from cluster.studies.proofs.reinforce import NUM_SOURCES, open_seed
from cluster.studies.proofs.seeds import mean_over_seeds
from cluster.studies.proofs.worlds.world import (
    REINFORCED,
    WITH_EDITS,
    World,
    conflict_accuracy,
    copy_shard,
    right_by_arm,
)
from engine.figures.figures import Figure
from engine.run.directory import RunDirectory
from engine.runfile.arms import PRESETS
from engine.runfile.data import WardrobeSource
from engine.sample import Sample, content_seed
from engine.sources.decode import encode_jpeg
from engine.wardrobe.garments import CLASSES, Garments, load_garments
from engine.wardrobe.scene import make_scene, make_scenes, render

# Share of the accepted edits with a wrong label, by the name in the figure.
CLEAN = "0"
SHARES = {CLEAN: 0.0, "10": 0.1, "30": 0.3}
MOST_LOST = {"10": 0.03}
NUM_TESTED = 4000
NO_GARMENT = Garments(images=np.zeros((1, 28, 28), np.uint8), labels=np.zeros(1, np.uint8))


def noise_figures(
    folder: Path, seeds: Sequence[int], num_sources: int = NUM_SOURCES, settings: Sequence[str] = ()
) -> Iterator[Figure]:
    """Yield each arm's accuracy on conflict images with wrong labels among its edits, and what it loses by them."""
    found: dict[tuple[str, str], list[float]] = {}
    for seed in seeds:
        for name, share in SHARES.items():
            for arm, accuracy in run_seed(folder, seed, share, num_sources, settings).items():
                found.setdefault((name, arm), []).append(accuracy)
    for (name, arm), accuracies in found.items():
        yield mean_over_seeds(f"noise.conflict_accuracy.{name}_percent.{arm}", accuracies)
    for (name, arm), accuracies in found.items():
        if name != CLEAN:
            lost = [clean - noisy for clean, noisy in zip(found[CLEAN, arm], accuracies, strict=True)]
            target = MOST_LOST.get(name) if arm == REINFORCED else None
            yield mean_over_seeds(f"noise.accuracy_lost.{name}_percent.{arm}", lost, target=target, better="lower")


def run_seed(
    folder: Path, seed: int, share: float, num_sources: int = NUM_SOURCES, settings: Sequence[str] = ()
) -> Mapping[str, float]:
    """Return each arm's accuracy on conflict images where such a share of a run's edits has lost its garment.

    The edits are those of `make proofs-reinforce`, made here where they are missing.
    """
    run, rundir, plan = open_seed(folder, "reinforce", seed, num_sources, settings)
    run_phases(("generate",), run, rundir, plan)
    arms = {name: PRESETS[name] for name in WITH_EDITS}
    run = run.model_copy(update={"reinforce": run.reinforce.model_copy(update={"arms": arms})})
    copied, _ = open_run(run, f"{rundir.storage.root}-noise-{100 * share:.0f}")
    assert isinstance(run.data.train, WardrobeSource)
    for index in copied.pending():
        lose_garments(rundir, copied, index, run.data.train, share)
    classifiers = World(run=run, rundir=copied, plan=plan).fine_tune()
    scenes = list(make_scenes(load_garments("heldout"), "noise", NUM_TESTED))
    found = {arm: conflict_accuracy(right, scenes) for arm, right in right_by_arm(classifiers, scenes).items()}
    print(f"noise, seed {seed}, share {share}:", found, flush=True)
    return {arm: found[arm] for arm in WITH_EDITS}


def lose_garments(source: RunDirectory, copied: RunDirectory, index: int, data: WardrobeSource, share: float) -> None:
    """Commit a shard of a run to a copy of it, a share of the accepted edits without their garment."""
    items = {item.key: item for item, _ in source.plan().shard(index)}

    def changed(sample: Sample) -> Sample:
        if sample.role != "counterfactual" or not is_lost(sample.key, share):
            return sample
        return without_garment(sample, int(items[sample.source_key].locator), data)

    copy_shard(source, index, copied, index, changed)


def is_lost(key: str, share: float) -> bool:
    """Return whether an edit loses its garment, by a hash of its key."""
    return content_seed(0, f"lost/{key}") < share * 2**63


def without_garment(sample: Sample, number: int, data: WardrobeSource) -> Sample:
    """Return an edit of composite `number` with its background alone or, every second one, another class's garment."""
    garments, rng = load_garments(data.split), np.random.default_rng(content_seed(0, f"kind of loss/{sample.key}"))
    scene = make_scene(garments, data.split, number, correlation=data.correlation, seed=data.seed)
    assert sample.edit is not None
    # A tiny language model names a value that no composite has at times, such as the colour "weather".
    if sample.edit.after in VALUES.get(sample.edit.kind, ()):
        change: dict[str, Any] = {sample.edit.kind: sample.edit.after}
        scene = replace(scene, **change)
    if rng.random() < 0.5:
        scene, garments = replace(scene, garment=0), NO_GARMENT
    else:
        label = int(rng.choice([other for other in range(len(CLASSES)) if other != scene.label]))
        scene = replace(scene, label=label, garment=int(rng.choice(garments.of_class(label))))
    return replace(sample, image=encode_jpeg(Image.fromarray(render(scene, garments)[0])))
