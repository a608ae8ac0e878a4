"""The images of one fine-tuning: which real images and edits each arm draws from, and which all arms are scored on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from actors.finetune_data import (
    Counterfactuals,
    DecodedImages,
    Place,
    RealImages,
    TrainingImages,
    read_validation_edits,
)
from actors.finetune_model import Patient
from actors.finetune_score import ValidationImages
from actors.finetune_state import FinetuneTask
from engine.errors import RunFileError, SourceError
from engine.recipe import uses_edits
from engine.rundir import RunDirectory
from engine.runfile import ArmName
from engine.sample import Split, content_seed
from engine.sources import SourceItem, open_source
from engine.splits import split_of

# More would cost time at every checkpoint and say little: the interval of an accuracy near 0.9 is +- 0.6 points here.
MAX_VALIDATION_IMAGES = 10_000


class RunImages:
    """Hold the images of one worker: `real` ones of the train split, real `validation` ones, `edits` of such sources.

    `edit_sources` names the source of each of the edits. Raises SourceError where a split has no image.
    """

    def __init__(self, task: FinetuneTask, patient: Patient, place: Place) -> None:
        self._task = task
        self._patient = patient
        self._place = place
        self._rundir = RunDirectory.open(task.rundir)
        if "randaugment" in task.arms and not patient.preprocessing.keeps_uint8:
            raise RunFileError(
                "reinforce.arms names randaugment, which needs pixels of 8 bits, but this model's image processor does "
                "not rescale: leave the arm out"
            )
        by_split = self._items()
        held = by_split["validation"][:MAX_VALIDATION_IMAGES]
        source = open_source(task.run.data.train)
        self.real = RealImages(source, by_split["train"], patient.preprocessing)
        # Made now, so that what the run file lacks is said before anything is trained.
        self._oracle = self._oracle_images() if "oracle" in task.arms else self.real
        validation = RealImages(source, held, patient.preprocessing)
        self.validation = ValidationImages(images=validation.image, labels=validation.labels)
        images, labels, self.edit_sources = read_validation_edits(self._rundir, task.contents)
        self.edits = ValidationImages(images=DecodedImages(images.__getitem__, patient.preprocessing), labels=labels)

    def of_arm(self, name: ArmName, mark_patient: Callable[[ValidationImages], str]) -> TrainingImages:
        """Return what an arm draws from; `mark_patient` says which images the untrained classifier gets right."""
        seed = content_seed(self._task.run.seed, "reinforce/images")
        edits = self._counterfactuals(name, seed) if uses_edits(name) else None
        real = self.real
        match name:
            case "oracle":
                real = self._oracle
            case "reweighted":
                marks = mark_patient(ValidationImages(images=real.image, labels=real.labels))
                upweight = self._task.run.reinforce.upweight
                real = real.repeated(np.array([upweight if mark == "0" else 1 for mark in marks]))
            case _:
                pass
        return TrainingImages(real, edits, self._patient.preprocessing, seed, augmented=name == "randaugment")

    def _counterfactuals(self, name: ArmName, seed: int) -> Counterfactuals:
        draws = self._task.draws if name == "reinforced" else dict.fromkeys(self._task.draws, 1)
        return Counterfactuals(self._rundir, self._task.contents, draws, self._splits, self._place, seed)

    def _items(self) -> dict[Split, list[SourceItem]]:
        """Return the sources by split, computed again from the hash of their keys."""
        run, plan = self._task.run, self._rundir.plan()
        by_split: dict[Split, list[SourceItem]] = {"train": [], "validation": [], "test": []}
        self._splits: dict[str, Split] = {}
        for split in by_split:
            for planned in plan.of_split(split):
                found = split_of(planned.item.split_key, run.data.splits, run.seed)
                self._splits[planned.item.key] = found
                by_split[found].append(planned.item)
        for split in ("train", "validation"):
            if not by_split[split]:
                raise SourceError(
                    f"the {split} split of data.train has no image: fine-tuning needs real images of it; "
                    f"raise data.splits.{split} or add images"
                )
        return by_split

    def _oracle_images(self) -> RealImages:
        run, classes = self._task.run, self._patient.classes
        if run.data.oracle is None:
            raise RunFileError("reinforce.arms names oracle: set data.oracle to images without the weakness")
        source = open_source(run.data.oracle)
        items = [
            # By name: another source may have its classes in another order.
            replace(item, label=classes.index(item.class_name))
            for item in source.items()
            if item.class_name in classes and split_of(item.split_key, run.data.splits, run.seed) == "train"
        ]
        if not items:
            raise SourceError(
                "data.oracle has no image of the train split and the run's classes: add images, or leave the arm "
                "oracle out"
            )
        return RealImages(source, items, self._patient.preprocessing)
