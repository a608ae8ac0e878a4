"""A world: composites with planted shortcuts as a run's images, a classifier trained on them, and its accuracies."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cluster.phases.pipeline import open_run, run_phases
from cluster.phases.reinforce import reinforce_run
from cluster.session.placement import reinforce_needs
from cluster.session.session import num_cores, ray_session
from engine.plan.plan import Plan
from engine.plan.splits import split_of
from engine.run.commit import Outcome, commit_outcome
from engine.run.directory import RunDirectory
from engine.runfile.arms import BASE, PRESETS
from engine.runfile.data import Splits
from engine.runfile.fields import ModelConfig, Placement
from engine.runfile.load import load_run_file
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.sample import Sample
from engine.sources.decode import encode_jpeg
from engine.wardrobe.garments import CLASSES, load_garments
from engine.wardrobe.scene import OWN_BACKGROUND, Scene, make_scenes, render

RUN_FILE = Path("configs/wardrobe.yaml")
# All trained in one run of a seed.
ARMS = tuple(PRESETS)
REINFORCED, RANDOM, ORACLE = "reinforced", "random_edits", "oracle"
WITH_EDITS = (RANDOM, REINFORCED)
COLUMNS = ("path", "mask", "label", "group", "background", "colour")
SPLITS = Splits(train=0.8, validation=0.2, test=0.0, seed=0)
SETTINGS = (
    # A garment is in one split, by the column `group`: nothing else can look alike.
    "data.near_duplicates=off",
    f"data.splits={SPLITS.model_dump_json()}",
    "probe.transfer=[]",
    "report.num_attributions=0",
    # As in `reinforce`, the study of the demo's own weakness.
    "reinforce.emphasis=4",
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a world is: composites, edited train and validation sources, steps of training, images of a test."""

    num_composites: int = 4000
    num_sources: int = 400
    num_validation_sources: int = 100
    num_patient_steps: int = 200
    num_steps: int = 200
    num_tested: int = 4000


@dataclass(frozen=True, kw_only=True)
class World:
    """One seed of a world: the run on its images, whose classifier under test was trained on the same."""

    run: RunFile
    rundir: RunDirectory
    plan: Plan

    def fine_tune(self) -> dict[str, Path]:
        """Run all phases up to the arms, or resume them; return the folder of each classifier."""
        run_phases(("generate", "allocate", "probe"), self.run, self.rundir, self.plan)
        with ray_session([reinforce_needs(self.run.reinforce)]):
            result: Any = reinforce_run(self.run, self.rundir)
        assert self.run.probe.model is not None
        trained = {name: arm["model"] for name, arm in result["arms"].items() if name != BASE}
        folders = {name: self.rundir.storage.local_path(folder) for name, folder in trained.items()}
        return {BASE: Path(self.run.probe.model.name), **folders}


def open_world(
    root: Path, seed: int, scenes: Sequence[Scene], size: Size, settings: Sequence[str] = (), name: str = "run"
) -> World:
    """Return the run `name` on these composites of garments of the split `sources`; what the folder has is kept.

    The classifier under test is trained on those of the train split, the arm `oracle` on composites without a shortcut.
    """
    free = make_scenes(load_garments("sources"), "oracle", size.num_composites, seed=seed)
    images = {"train": scenes, "oracle": free}
    tables = [f"data.{name}={write_images(root / 'images' / name, chosen)}" for name, chosen in images.items()]
    patient = train_patient(root / "patient", scenes, seed, size.num_patient_steps)
    overrides = [
        f"seed={seed}",
        f"data.num_sources={size.num_sources}",
        f"data.num_validation_sources={size.num_validation_sources}",
        f"reinforce.num_steps={size.num_steps}",
        f"probe.model.name={patient}",
    ]
    run = load_run_file(RUN_FILE, [*SETTINGS, *tables, *overrides, *settings])
    rundir, plan = open_run(run, str(root / name))
    return World(run=run, rundir=rundir, plan=plan)


def copy_shard(
    source: RunDirectory, made: int, copied: RunDirectory, index: int, change: Callable[[Sample], Sample] | None = None
) -> None:
    """Commit shard `made` of one run as shard `index` of another, each accepted sample changed by a function."""
    marker, accepted = source.marker(made), source.read_shard(made)
    samples = [*(map(change, accepted) if change else accepted), *source.read_rejected(made)]
    outcome = Outcome.of(samples, source.read_quarantine(made))
    commit_outcome(
        copied, index, outcome, marker.seconds, marker.versions, marker.allocation, marker.early, marker.calls
    )


def write_images(folder: Path, scenes: Iterable[Scene]) -> str:
    """Write composites as JPEGs with a table, unless they are there; return the settings of the source as JSON."""
    garments, table = load_garments("sources"), folder / "images.csv"
    if not table.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for scene in scenes:
            name, mask_name = f"{scene.key}.jpg", f"{scene.key}.mask.png"
            picture, mask = render(scene, garments)
            (folder / name).write_bytes(encode_jpeg(Image.fromarray(picture)))
            Image.fromarray(mask).save(folder / mask_name)
            rows.append((name, mask_name, scene.class_name, _group(scene), scene.background, scene.colour))
        unfinished = table.with_suffix(".partial")
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        unfinished.rename(table)
    attributes = COLUMNS[-2:]
    return json.dumps({"kind": "table", "path": str(table.resolve()), "classes": CLASSES, "attributes": attributes})


def train_patient(folder: Path, scenes: Iterable[Scene], seed: int, num_steps: int) -> Path:
    """Train a classifier on the composites of the train split, unless it is there; return its folder."""
    from actors.zoo.recipes.training.pictures import save_image_processor
    from cluster.studies.proofs.planted.classifiers import pictures_of, train_classifier

    if not (folder / "preprocessor_config.json").exists():
        used = [scene for scene in scenes if split_of(f"group:{_group(scene)}", SPLITS, 0) == "train"]
        pictures = pictures_of(used, load_garments("sources"))
        model = train_classifier(pictures, [scene.label for scene in used], seed, num_steps)
        model.save_pretrained(folder)
        save_image_processor(folder, "ViTImageProcessor")
    return folder.resolve()


def right_by_arm(classifiers: Mapping[str, Path], scenes: list[Scene]) -> dict[str, NDArray[np.bool_]]:
    """Return for each classifier which composites of held-out garments it gets right, (num_scenes,)."""
    from actors.classifier.classifier import Classifier, predict_all
    from actors.images.codec import encode_png

    garments = load_garments("heldout")
    pictures = [encode_png(render(scene, garments)[0]) for scene in scenes]
    labels = np.array([scene.label for scene in scenes])
    configs = [
        ProbeConfig(model=ModelConfig(name=str(folder)), placement=Placement(num_threads=num_cores()))
        for folder in classifiers.values()
    ]
    answers = predict_all([Classifier(config, CLASSES, offline=True) for config in configs], pictures)
    return {name: answer.argmax(1) == labels for name, answer in zip(classifiers, answers, strict=True)}


def conflict_accuracy(right: NDArray[np.bool_], scenes: Sequence[Scene]) -> float:
    """Return the accuracy on composites that do not stand on their class's background."""
    return float(right[[scene.background != OWN_BACKGROUND[scene.label] for scene in scenes]].mean())


def _group(scene: Scene) -> str:
    """Return the name of a composite's garment: all of one are in one split."""
    return f"garment-{scene.garment}"
