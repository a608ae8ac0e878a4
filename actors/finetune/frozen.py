"""The frozen features of a run's images, extracted once by all workers, and the heads that can be fitted on them."""

import random
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from actors.classifier.prototypes import PrototypeHead
from actors.finetune.arm_run import Worker
from actors.finetune.arms.dfr import dfr_heads
from actors.finetune.arms.dpe import dpe_heads
from actors.finetune.arms.features import (
    Candidate,
    LabelledFeatures,
    check_head,
    head_inputs,
    head_weights,
    linear_head,
)
from actors.finetune.arms.logistic import LinearHead
from actors.finetune.arms.projection import projection_heads
from actors.finetune.batches import DecodedImages
from actors.finetune.model import Weights, prototype_weights
from actors.finetune.score import MARKS, UNREADABLE
from actors.images.preprocessing import Pixels, same_size
from actors.models.device import num_readers, resolve_device
from engine.runfile.arms import ArmConfig
from engine.sample import Sample, content_seed
from engine.shards.walk import Image
from engine.training.contents import is_trained_on
from engine.training.gate import Score
from engine.training.held_out import is_of_share

# Where no arm is fitted: the probe looks at so many real images and edits of the train split.
PROBE_IMAGES = 1024
# The edits that are looked at come from shards with so many times as many, so from many sources.
SPREAD = 4


class FrozenFeatures:
    """The features of a run's images, and the heads fitted on them. All workers must ask for the same in one order.

    No more images are looked at than an arm with steps sees. Of the train split the small groups are taken whole, of
    large ones a part. What cannot be read is left out.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, self._images = worker, worker.images
        settings, config = worker.settings, worker.settings.config
        self._device = resolve_device(config.placement)
        self._heads = worker.base.heads
        model = worker.base.model().eval()
        check_head(model, self._heads, worker.base.trial_inputs())
        self.head = linear_head(model.to(self._device), self._heads)
        is_fitted = any(config.arms[name].fit for name in settings.arms)
        self._budget = config.num_steps * config.batch_size if is_fitted else PROBE_IMAGES
        self.seed = content_seed(settings.seed, "reinforce/features")

    @cached_property
    def real(self) -> LabelledFeatures:
        """Return the real images of the train split."""
        real = self._images.real
        groups = [self._images.groups.of_real(item.class_name, item.attributes) for item in real.items]
        rows = most_even(groups, self._budget, self.seed)
        return self._labelled(
            self._of(lambda index: real.image(rows[index]), len(rows)),
            [int(real.labels[row]) for row in rows],
            [groups[row] for row in rows],
        )

    @cached_property
    def edits(self) -> LabelledFeatures:
        """Return the accepted edits of train sources, each in the group that it was edited into."""
        samples, known = [sample for sample, _, _ in self.train_edits], self._images.groups
        groups = [
            known.of_edit(known.of_real(sample.class_name, sample.attributes), edit.kind, edit.after)
            for sample in samples
            if (edit := sample.edit)
        ]
        return self._labelled(self._edit_features, [sample.label for sample in samples], groups)

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor, list[str]]:
        """Return the features of edits and of their placebos, (num_edits, dim) each, and what each edit put in."""
        edits = self._edit_features
        references = self._of_encoded([reference for _, _, reference in self.train_edits])
        rows = [row for row, each in enumerate((edits + references).isfinite().all(1).tolist()) if each]
        values = [f"{edit.kind}: {edit.after}" for sample, _, _ in self.train_edits if (edit := sample.edit)]
        return edits[rows], references[rows], [values[row] for row in rows]

    @cached_property
    def _edit_features(self) -> Tensor:
        return self._of_encoded([image for _, image, _ in self.train_edits])

    @cached_property
    def validation(self) -> list[tuple[Tensor, Tensor]]:
        """Return features and labels of real validation images, of edits, and of edits with held-out phrases."""
        parts = (self._images.validation, self._images.edits, self._images.held_out)
        return [
            (self._of(part.images, len(part.labels)), torch.from_numpy(part.labels).to(self._device)) for part in parts
        ]

    @cached_property
    def train_edits(self) -> list[tuple[Sample, Image, Image]]:
        """Return accepted edits of train sources, each with its image and that of its placebo, or else its source.

        Of many shards some are walked: each is read whole from an object store.
        """
        config = self._worker.settings.config
        order = random.Random(self.seed)
        shards, num_edits = [], 0
        for shard in order.sample(self._images.contents, len(self._images.contents)):
            if num_edits < SPREAD * self._budget:
                shards.append(shard)
                num_edits += shard.train
        share = min(1.0, self._budget / max(1, num_edits))
        found: list[tuple[Sample, Image, Image]] = []
        for shard in sorted(shards, key=lambda shard: shard.shard):
            for entry in self._worker.rundir.walk_shard(shard.shard):
                sample = entry.sample()
                if sample.role == "source":
                    source, placebos = entry.image, dict[tuple[str, str, int], Image]()
                elif sample.role == "placebo" and sample.is_accepted:
                    placebos[sample.control] = entry.image
                elif is_trained_on(sample, config) and is_of_share(f"features/{sample.key}", share):
                    found.append((sample, entry.image, placebos.get(sample.control, source)))
        return found

    def score(self, head: Callable[[Tensor], Tensor]) -> Score:
        """Return the score of a head on the validation images."""
        real, edits, held_out = (_marks(head, features, labels) for features, labels in self.validation)
        return Score(real=real, edits=edits, held_out=held_out)

    def fit(self, arm: ArmConfig) -> tuple[LabelledFeatures, Iterator[Candidate]]:
        """Return what an arm is fitted on, and the heads to choose among."""
        num_classes = len(self.head.bias)
        # Extracted by all workers, before the first one alone scores heads on it.
        _ = self.validation
        data = self.real + self.edits if arm.edits and arm.fit != "projection" else self.real
        if arm.fit == "projection":
            return data, projection_heads(data, *self.pairs, num_classes)
        return data, (dpe_heads if arm.fit == "dpe" else dfr_heads)(data, num_classes, self.seed)

    def weights(self, head: Callable[[Tensor], Tensor]) -> Weights:
        """Return the classifier's weights with a fitted head."""
        weights: Weights = {name: value.clone() for name, value in self._worker.base.model().state_dict().items()}
        if isinstance(head, LinearHead):
            own = head_weights(self._worker.base.model(), self._heads, head)
        else:
            assert isinstance(head, PrototypeHead)
            own = prototype_weights(head)
        return weights | {name: value.cpu() for name, value in own.items()}

    def _labelled(self, features: Tensor, labels: Sequence[int], groups: Sequence[tuple[str, ...]]) -> LabelledFeatures:
        rows = [row for row, each in enumerate(features.isfinite().all(1).tolist()) if each]
        return LabelledFeatures(
            features=features[rows],
            labels=torch.tensor(labels, device=self._device)[rows],
            groups=[groups[row] for row in rows],
        )

    def _of_encoded(self, images: Sequence[Image]) -> Tensor:
        return self._of(DecodedImages(lambda index: images[index](), self._worker.base.preprocessing, 0), len(images))

    def _of(self, images: Callable[[int], Pixels | None], count: int) -> Tensor:
        """Return the features of so many images (count, dim), NaN for one that cannot be read."""
        place, base = self._worker.place, self._worker.base
        # Made anew: no copy stays in memory beside what is trained.
        model = base.model().eval().to(self._device)
        features = torch.zeros(count, self.head.weight.shape[1], device=self._device)
        size = max(1, self._worker.settings.config.batch_size // place.size)
        mine = range(place.rank, count, place.size)
        with ThreadPoolExecutor(num_readers(self._worker.settings.config.placement)) as pool:
            for start in range(0, len(mine), size):
                rows = mine[start : start + size]
                decoded = list(zip(rows, pool.map(images, rows), strict=True))
                features[[row for row, pixels in decoded if pixels is None]] = torch.nan
                read = [(row, pixels) for row, pixels in decoded if pixels is not None]
                if read:
                    inputs = base.preprocessing.inputs(np.stack(same_size([each for _, each in read])), self._device)
                    features[[row for row, _ in read]], _ = head_inputs(model, self._heads, inputs)
        torch.distributed.all_reduce(features)
        return features


def most_even(groups: Sequence[tuple[str, ...]], budget: int, seed: int) -> list[int]:
    """Return the rows, at most `budget` but one of each group, of groups cut down to one largest size."""
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    sizes = Counter(map(len, members.values()))
    fitting = range(1, max(sizes) + 1)
    most = max(1, bisect(fitting, budget, key=lambda most: sum(n * min(size, most) for size, n in sizes.items())))
    order = random.Random(seed)
    return sorted(row for every in members.values() for row in order.sample(every, min(len(every), most)))


def _marks(head: Callable[[Tensor], Tensor], features: Tensor, labels: Tensor) -> str:
    """Return which images a head gets right, as `mark_images` does."""
    if not len(labels):
        return ""
    marks = (head(features).argmax(1) == labels).int()
    marks[~features.isfinite().all(1)] = UNREADABLE
    return "".join(MARKS[mark] for mark in marks.tolist())
