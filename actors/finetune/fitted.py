"""Arms that are fitted on frozen features, without steps, and the linear probe that says whether a head suffices."""

from collections.abc import Callable, Iterator
from math import ceil
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.finetune.arm_run import Worker, report
from actors.finetune.arms.features import (
    Candidate,
    LabelledFeatures,
    check_replaceable,
)
from actors.finetune.arms.logistic import LinearHead, Scaler, fit_path
from actors.finetune.frozen import FrozenFeatures
from actors.finetune.model import Weights
from engine.errors import ModelError
from engine.runfile.reinforce import ReinforceConfig
from engine.training.linear_probe import LinearProbe
from engine.training.progress import ArmRecord, Entry, Progress, Rank

HELD_SHARE = 0.2


def open_features(worker: Worker) -> FrozenFeatures | None:
    """Return the features of a worker's images, None where the classifier has no linear head and no arm is fitted.

    Raises ModelError where an arm is to be fitted that cannot be.
    """
    fits = _fits(worker)
    try:
        frozen = FrozenFeatures(worker)
    except ModelError:
        if fits:
            raise
        return None
    if "dpe" in fits:
        check_replaceable(worker.base.model(), worker.base.heads)
    return frozen


def fit_arm(worker: Worker, name: str, progress: Progress, frozen: FrozenFeatures) -> tuple[Progress, Weights]:
    """Return the progress with an arm that is fitted, and its weights on the first worker; a checkpoint has both.

    Of the candidates, and of the weights between the best one and the base classifier's head, those are kept that the
    gate ranks first on validation images, as it ranks the steps of other arms.
    """
    progress, rank = worker.rank(name, progress)
    fit = frozen.fit(worker.settings.config.arms[name])
    best: Weights = {}
    box: list[ArmRecord | None] = [None]
    if worker.place.rank == 0:
        record, head = _fitted(frozen, fit, worker.settings.config, rank)
        box, best = [record], frozen.weights(head)
    # The first worker alone has it.
    torch.distributed.broadcast_object_list(box)
    assert box[0] is not None
    progress = progress.with_arm(name, box[0])
    report(worker, name, progress, best)
    return progress, best


def probe_linearly(frozen: FrozenFeatures) -> LinearProbe | None:
    """Return the linear probe of the features, None where there is no edit to fit it on or to ask it about.

    Fitted on train edits and real images; its penalty is the one that is best on the last fifth of the edits, which lie
    source by source. All workers must call it, and get the same.
    """
    real, edits = frozen.real, frozen.edits
    base = frozen.score(frozen.head)
    labels = frozen.validation[1][1]
    num_held = ceil(HELD_SHARE * len(edits.labels))
    if not num_held or base.edits_accuracy is None:
        return None
    features = torch.cat([real.features, edits.features])
    known, held = torch.cat([real.labels, edits.labels])[:-num_held], edits.labels[-num_held:]
    scaler = Scaler.of(features)
    rows = scaler(features)
    heads = [head for _, head in fit_path(rows[:-num_held], known, len(frozen.head.bias))]
    best = max(heads, key=lambda head: int((head(rows[-num_held:]).argmax(1) == held).sum()))
    accuracy = frozen.score(scaler.folded(best)).edits_accuracy
    assert accuracy is not None
    return LinearProbe(
        accuracy=accuracy,
        base_accuracy=base.edits_accuracy,
        base_real_accuracy=base.accuracy,
        chance=float(labels.bincount().max()) / len(labels),
        num_edits=len(labels),
        num_features=features.shape[1],
    )


def _fits(worker: Worker) -> set[str]:
    arms = worker.settings.config.arms
    return {fit for name in worker.settings.arms if (fit := arms[name].fit)}


def _fitted(
    frozen: FrozenFeatures,
    fit: tuple[LabelledFeatures, Iterator[Candidate]],
    config: ReinforceConfig,
    rank: Rank,
) -> tuple[ArmRecord, Callable[[Tensor], Tensor]]:
    """Return the record of an arm and the head that was chosen for it."""
    data, candidates = fit
    start = perf_counter()
    scored = [(candidate, frozen.score(candidate.head)) for candidate in candidates]
    best, score = max(scored, key=lambda pair: rank(pair[1]))
    logits = best.head(data.features)
    entry = Entry(
        step=config.num_steps,
        loss=float(F.cross_entropy(logits, data.labels)),
        learning_rate=0.0,
        images_per_second=round(len(data.labels) / (perf_counter() - start), 2),
        validation_accuracy=score.accuracy,
        validation_edits_accuracy=score.edits_accuracy,
    )
    words = f"{best.words} (the best of {len(scored)} on validation images)"
    record = ArmRecord(fitted=words).add(entry, score, rank)
    heads = {1.0: best.head}
    if isinstance(best.head, LinearHead):
        heads |= {share: frozen.head.towards(best.head, share) for share in config.interpolation}
        for share in config.interpolation:
            record = record.add_point(share, frozen.score(heads[share]), rank)
    return record, heads[record.best_share]
