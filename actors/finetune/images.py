"""The images of one fine-tuning: which real images and edits each arm draws from, and which all arms are scored on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from actors.finetune.batches import DecodedImages, RealImages, TrainingImages
from actors.finetune.model import BaseClassifier
from actors.finetune.recombined import RecombinedImages
from actors.finetune.score import Mark, ValidationImages
from actors.finetune.stream import Counterfactuals, Place, read_validation_edits
from actors.models.device import num_readers, resolve_device
from engine.errors import RunFileError, SourceError
from engine.plan.splits import MAX_VALIDATION_IMAGES, SPLITS, split_of
from engine.run.directory import RunDirectory
from engine.runfile.arms import ArmConfig
from engine.runfile.reinforce import ReinforceConfig
from engine.sample import Json, Sample, Split, content_seed
from engine.shards.walk import Image
from engine.sources import Source, SourceItem, masked, open_source
from engine.training.contents import EditCell, ShardContents, edit_draws, source_splits
from engine.training.gate import Score
from engine.training.groups import Groups, balanced_draws, balancing
from engine.training.held_out import is_held_out
from engine.training.progress import Progress
from engine.training.result import TrainOutput
from engine.training.settings import TrainSettings


class RunImages:
    """The images of one worker: `real` ones of the train split, real `validation` ones, `edits` of their sources.

    `real_groups` and `edit_groups` name the split key of each of the last two. `held_out` are edits whose phrase was
    held out of training, not in `edits`. Raises SourceError where a split has no image.
    """

    def __init__(self, settings: TrainSettings, base: BaseClassifier, place: Place) -> None:
        self._settings = settings
        self._preprocessing = base.preprocessing
        self._place = place
        self._rundir = RunDirectory.open(settings.rundir)
        arms = {name: settings.config.arms[name] for name in settings.arms}
        augmented = [name for name, arm in arms.items() if arm.augment]
        if augmented and not base.preprocessing.keeps_uint8:
            raise RunFileError(
                f"reinforce.arms names {augmented[0]}, which needs pixels of 8 bits, but this model's image processor "
                "does more than rescale and normalise them: leave the arm out"
            )
        # Decoding gives the same pixels in any number of threads.
        self._num_threads = num_readers(settings.config.placement)
        by_split = self._items()
        held = by_split["validation"][:MAX_VALIDATION_IMAGES]
        source = open_source(settings.data.train)
        known = {name for item in by_split["train"] for name in item.attributes}
        self.groups = Groups(settings.group_by, known)
        self._numbers_groups = settings.config.needs_groups
        self.real = self._real_images(source, by_split["train"])
        # Opened now, so that an error of the run file is raised before anything is trained.
        self._oracle = self._oracle_images() if any(arm.is_bound for arm in arms.values()) else self.real
        for arm in arms.values():
            if arm.augment == "recombine":
                masked((self._oracle if arm.is_bound else self.real).source)
        self.validation = self._to_score(RealImages(source, held, base.preprocessing))
        self.real_groups = [item.split_key for item in held]
        self.draw_from(settings.contents, settings.harm)
        self.score_on(settings.contents)

    def draw_from(self, contents: Sequence[ShardContents], harm: Mapping[EditCell, float | None]) -> None:
        """Draw the edits of train sources from these shards; `harm` is that of their cells."""
        self.contents, self._harm = contents, harm
        if self._numbers_groups:
            self.groups.add_edits(cell for shard in contents for cell in shard.cells)

    def score_on(self, contents: Sequence[ShardContents]) -> None:
        """Score on the edits of validation sources in these shards."""
        phrases = self._settings.config.held_out_phrases
        edits: list[tuple[Sample, Image]] = []
        held_out: list[tuple[Sample, Image]] = []
        for sample, image in read_validation_edits(self._rundir, contents):
            assert sample.edit is not None
            is_held = is_held_out(sample.edit.kind, sample.edit.after, phrases)
            (held_out if is_held else edits).append((sample, image))
        self.edit_groups = [self._groups[sample.source_key] for sample, _ in edits]
        self.edit_kinds = [sample.edit.kind for sample, _ in edits if sample.edit]
        self.edits, self.held_out = self._validation(edits), self._validation(held_out)

    @property
    def num_edits(self) -> int:
        """Return the number of edits of train sources to draw from."""
        return sum(shard.train for shard in self.contents)

    def score(self, mark: Mark) -> Score:
        """Return the score of a classifier on the validation images; all workers must call it."""
        edits, held_out = (mark(part) if len(part.labels) else "" for part in (self.edits, self.held_out))
        return Score(real=mark(self.validation), edits=edits, held_out=held_out)

    def output(self, progress: Progress) -> TrainOutput:
        """Return the progress with the images that there were at the end."""
        held_out = [shard.held_out for shard in self.contents]
        phrases: list[Json] = [*sorted({f"{kind}: {after}" for cells in held_out for _, kind, after in cells})]
        return TrainOutput(
            progress=progress,
            real_groups=tuple(self.real_groups),
            edit_groups=tuple(self.edit_groups),
            edit_kinds=tuple(self.edit_kinds),
            images={"replay": len(self.real.items), "counterfactuals": self.num_edits},
            held_out={
                "phrases": phrases,
                "train_edits": sum(sum(cells.values()) for cells in held_out),
                "validation_edits": len(self.held_out.labels),
            },
        )

    def _to_score(self, real: RealImages) -> ValidationImages:
        return ValidationImages(images=real.image, labels=real.labels, num_threads=self._num_threads)

    def _validation(self, edits: Sequence[tuple[Sample, Image]]) -> ValidationImages:
        images = DecodedImages(lambda index: edits[index][1](), self._preprocessing)
        labels = np.array([sample.label for sample, _ in edits], np.int64)
        return ValidationImages(images=images, labels=labels, num_threads=self._num_threads)

    def of_arm(self, name: str, mark_base: Mark) -> TrainingImages:
        """Return the training images of an arm; `mark_base` says which images the base classifier gets right."""
        seed = content_seed(self._settings.seed, "reinforce/images")
        arm, config = self._settings.config.arms[name], self._settings.config.of_arm(name)
        edits = None if arm.edits is None else self._counterfactuals(arm, config, seed)
        real = self._oracle if arm.is_bound else self.real
        if arm.sampler == "groups":
            real = real.repeated(np.array(balancing(np.bincount(real.groups).tolist()))[real.groups])
        if arm.sampler == "errors":
            marks = mark_base(self._to_score(real))
            real = real.repeated(np.array([config.upweight if mark == "0" else 1 for mark in marks]))
        return TrainingImages(
            RecombinedImages(real, self._preprocessing) if arm.augment == "recombine" else real,
            edits,
            self._preprocessing,
            seed,
            augmented=arm.augment == "randaugment",
            num_threads=self._num_threads,
            is_pinned=resolve_device(config.placement).type == "cuda",
        )

    def _counterfactuals(self, arm: ArmConfig, config: ReinforceConfig, seed: int) -> Counterfactuals:
        assert arm.edits is not None
        draws = edit_draws(arm.edits, config, self._harm)
        if arm.sampler == "groups":
            draws = balanced_draws(draws, self.contents)
        return Counterfactuals(
            self._rundir,
            self.contents,
            draws,
            self.splits,
            self._place,
            seed,
            config.edit_share,
            arm.edits.placebos,
            self.groups if self._numbers_groups else None,
        )

    def _real_images(self, source: Source, items: Sequence[SourceItem]) -> RealImages:
        if not self._numbers_groups:
            return RealImages(source, items, self._preprocessing)
        found = [self.groups.of_real(item.class_name, item.attributes) for item in items]
        self.groups.add_real(found)
        return RealImages(source, items, self._preprocessing, np.array([*map(self.groups.number, found)], np.int64))

    def _items(self) -> dict[Split, list[SourceItem]]:
        """Return the sources by split, computed again from the hash of their keys."""
        plan, data = self._rundir.plan(), self._settings.data
        self.splits = source_splits(plan, data.splits, self._settings.seed)
        self._groups = plan.split_keys()
        by_split: dict[Split, list[SourceItem]] = {split: [] for split in SPLITS}
        for split in SPLITS:
            for planned in plan.of_split(split):
                by_split[self.splits[planned.item.key]].append(planned.item)
        for split in ("train", "validation"):
            if not by_split[split]:
                raise SourceError(
                    f"the {split} split of data.train has no image: fine-tuning needs real images of it; "
                    f"raise data.splits.{split} or add images"
                )
        return by_split

    def _oracle_images(self) -> RealImages:
        data, classes = self._settings.data, self._settings.classes
        assert data.oracle is not None
        source = open_source(data.oracle)
        items = [
            # By name: another source may have its classes in another order.
            replace(item, label=classes.index(item.class_name))
            for item in source.items()
            if item.class_name in classes and split_of(item.split_key, data.splits, self._settings.seed) == "train"
        ]
        if not items:
            raise SourceError(
                "data.oracle has no image of the train split and the run's classes: add images, or leave the "
                "arms on it out"
            )
        return self._real_images(source, items)
