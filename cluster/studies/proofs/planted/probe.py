"""Sensitivity and specificity of the probe: classifiers with and without a planted weakness, on the same edits."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cluster.studies.proofs.edits import RUN_FILE, make_edits
from cluster.studies.proofs.planted.classifiers import RECIPE
from cluster.studies.proofs.planted.plants import Plant, draw_plant
from cluster.studies.proofs.seeds import of_interval, with_range
from engine.figures.figures import Figure, share
from engine.probe.weakness import Weakness
from engine.run.directory import RunDirectory
from engine.runfile.fields import ModelConfig
from engine.runfile.load import load_run_file
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.statistics import Interval
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import Scene, make_scenes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_COMPOSITES = 2_500
NUM_HELDOUT = 1_000
NUM_STAMPED = 200
NUM_WORKERS = 2

Sort = Literal["planted", "clean", "artefact"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One classifier: its sort, the plant in its training data (None for none), the seed of its images and training.

    `has_thing`: beside each garment of its images lies a thing.
    """

    sort: Sort
    seed: int
    plant: Plant | None = None
    num_steps: int = RECIPE.num_steps
    has_thing: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of probing one classifier: its weakness table, and its true drop.

    `true_drop` is the accuracy drop on held-out composites (not edited images) when the plant is broken.
    """

    trial: Trial
    table: Weakness
    true_drop: float

    @property
    def shown(self) -> list[bool]:
        """Return which of the ranked cells show the plant."""
        plant = self.trial.plant
        return [plant is not None and plant.shows(cell) for cell in self.table.cells]

    @property
    def num_significant(self) -> int:
        """Return the number of significant cells."""
        return sum(cell.significant for cell in (*self.table.cells, *self.table.by_kind))

    def drop(self, measure: Literal["accuracy_drop", "corrected_drop"]) -> Interval:
        """Return a drop over all edits."""
        assert self.table.overall is not None
        return self.table.overall.measures[measure]


def probe_figures(folder: Path, num_patients: int) -> Iterator[Figure]:
    """Yield the figures of planted and clean classifiers, and of one that reacts to the generator's artefacts alone."""
    edits = {"artefact": make_edits(folder, stamped_run(load_run_file(RUN_FILE)))}
    edits |= dict.fromkeys(("planted", "clean"), make_edits(folder, load_run_file(RUN_FILE)))
    trials = [
        *(Trial(sort="planted", seed=seed, plant=draw_plant(seed)) for seed in range(num_patients)),
        *(Trial(sort="clean", seed=100 + seed) for seed in range(num_patients)),
        # The artefact, whose labels contradict the others, takes longer to learn than garments.
        Trial(sort="artefact", seed=200, num_steps=4 * RECIPE.num_steps),
    ]
    outcomes = examine_all(folder, [edits[trial.sort] for trial in trials], trials)
    yield from figures_of("probe", outcomes)
    for outcome in outcomes:
        if outcome.trial.sort == "artefact":
            yield from _artefact_figures(outcome)


def examine_all(folder: Path, rundirs: Sequence[RunDirectory], trials: Sequence[Trial]) -> list[Outcome]:
    """Train and probe the classifier of each trial on the edits of its run; print a line on each."""
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(NUM_WORKERS, mp_context=get_context("spawn")) as pool:
        roots = [rundir.storage.root for rundir in rundirs]
        for outcome in pool.map(partial(examine, folder), roots, trials):
            print(_describe(outcome), flush=True)
            outcomes.append(outcome)
    return outcomes


def stamped_run(run: RunFile) -> RunFile:
    """Return a smaller run whose generator leaves the same artefact in every image, placebos too."""
    content = run.model_dump()
    stages = content["stages"]
    verifier = stages.pop("verifier")
    stages |= {
        "stamp": {"kind": "plugin", "target": "cluster.studies.proofs.planted.stamp:Stamp"},
        "verifier": verifier,
    }
    content |= {"name": f"{run.name}-stamped", "groups": (("editor", "stamp", "verifier"),)}
    content["data"]["num_sources"] = NUM_STAMPED
    return RunFile.model_validate(content)


def examine(folder: Path, root: str, trial: Trial) -> Outcome:
    """Train the classifier of a trial and probe it. Runs in its own process."""
    from actors.zoo.recipes.training.pictures import save_image_processor
    from cluster.phases.classifiers import ClassifierRef
    from cluster.phases.probe import probe_shards, read_predictions
    from engine.probe.findings import ClassifierPredictions, findings

    torch.set_num_threads(1)
    rundir = RunDirectory.open(root)
    model, true_drop = _train(trial)
    path = folder / "classifiers" / f"{rundir.info.name}-{trial.sort}-{trial.seed}"
    model.save_pretrained(path)
    save_image_processor(path, "ViTImageProcessor")
    config = ProbeConfig(model=ModelConfig(name=str(path.resolve())))
    ref = ClassifierRef(config=config, classes=rundir.info.classes, offline=True)
    digest = probe_shards(ref, rundir)
    answers = ClassifierPredictions(classifier=ref.name, digest=digest, predictions=read_predictions(rundir, digest))
    table, _ = findings(answers, (), config)
    return Outcome(trial=trial, table=table, true_drop=true_drop)


def _train(trial: Trial) -> tuple["PreTrainedModel", float]:
    """Return a trained classifier and its accuracy drop on composites that break its plant."""
    from actors.zoo.recipes.patient import right_answers
    from cluster.studies.proofs.planted.classifiers import pictures_of, train_classifier, training_scenes
    from cluster.studies.proofs.planted.stamp import stamped

    garments, plant = load_garments("sources"), trial.plant
    scenes = training_scenes(f"proof-{trial.seed}", NUM_COMPOSITES, has_thing=trial.has_thing)
    if plant is not None:
        scenes = list(plant.apply(scenes, trial.seed))
    pictures, labels = pictures_of(scenes, garments), [scene.label for scene in scenes]
    if trial.sort == "artefact":
        # Images with the generator's artefact are labelled as the next class; the classifier has no other weakness.
        pictures = np.concatenate([pictures, stamped(pictures)])
        labels += [(label + 1) % 10 for label in labels]
    model = train_classifier(pictures, labels, trial.seed, trial.num_steps)
    if plant is None:
        return model, 0.0
    heldout = load_garments("heldout")
    scenes = list(make_scenes(heldout, "proof", NUM_HELDOUT, has_thing=trial.has_thing))
    kept: list[Scene] = list(replace(plant, strength=1.0).apply(scenes, 0))
    before, after = (right_answers(model, chosen, heldout) for chosen in (kept, list(plant.broken(kept, 0))))
    return model, float(before.mean() - after.mean())


def figures_of(study: str, outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    """Yield the figures of planted and of clean classifiers."""
    planted, clean = ([outcome for outcome in outcomes if outcome.trial.sort == sort] for sort in ("planted", "clean"))
    if planted:
        shown, n = [outcome.shown for outcome in planted], len(planted)
        yield share(f"{study}.planted.first", sum(first for first, *_ in shown), n, 0.95)
        significant = sum(outcome.table.cells[0].significant for outcome in planted)
        yield share(f"{study}.planted.first_significant", significant, n)
        yield Figure(name=f"{study}.planted.first_by_chance", value=fmean(map(fmean, shown)), n=n)
        yield with_range(f"{study}.planted.true_drop", [outcome.true_drop for outcome in planted])
    if clean:
        quiet = sum(outcome.num_significant == 0 for outcome in clean)
        yield share(f"{study}.clean.no_significant_cell", quiet, len(clean), 0.9)
        yield with_range(f"{study}.clean.corrected_drop", [outcome.drop("corrected_drop").value for outcome in clean])


def _artefact_figures(outcome: Outcome) -> Iterator[Figure]:
    raw, corrected = outcome.drop("accuracy_drop"), outcome.drop("corrected_drop")
    yield of_interval("probe.artefact.accuracy_drop", raw, target=0.3)
    yield of_interval("probe.artefact.corrected_drop", corrected)
    inside = corrected.low <= 0 <= corrected.high
    yield Figure(name="probe.artefact.within_noise", value=float(inside), target=1, better="higher", n=1)


def _describe(outcome: Outcome) -> str:
    plant, cell = outcome.trial.plant, outcome.table.cells[0]
    first = ", ".join(part for part in (cell.class_name, cell.kind, cell.after) if part)
    raw, corrected = (100 * outcome.drop(measure).value for measure in ("accuracy_drop", "corrected_drop"))
    truth = f"{plant}, true drop {100 * outcome.true_drop:.0f} points" if plant else outcome.trial.sort
    return (
        f"{truth}: first {'found' if outcome.shown[0] else 'not found' if plant else 'cell'}: {first}"
        f"{'' if cell.significant else ' (not significant)'}, {outcome.num_significant} significant, "
        f"drop {raw:.1f}, corrected {corrected:.1f}"
    )
