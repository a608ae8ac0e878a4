"""Projection: the directions in which edits move the features are taken away, and the head is fitted on the rest.

As NCM (Noisy Counterfactual Matching, arXiv 2505.24843), by a truncated SVD of the differences within pairs.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from actors.finetune.arms.features import Candidate, LabelledFeatures
from actors.finetune.arms.logistic import LinearHead, Scaler, fit_path

MAX_DIRECTIONS = 8
STRENGTHS = (0.01, 0.1, 1.0)


def projection_heads(
    data: LabelledFeatures, edits: Tensor, references: Tensor, values: Sequence[str], num_classes: int
) -> Iterator[Candidate]:
    """Yield linear heads that do not see the first 0, 1, ... 8 right singular vectors of edits - references.

    `references` (num_edits, dim) are the features of each edit's placebo, or of its source, `values` what each edit put
    in. The projection is part of the weights: W P, with P the projector onto the complement. The words say what share
    of the edits' movement is left, and how well a linear classifier still reads the value from the features.
    """
    moves = edits - references
    _, _, directions = torch.linalg.svd(moves, full_matrices=False)
    total = float((moves**2).sum())
    before = read_values(edits, values)
    for count in range(min(MAX_DIRECTIONS, len(directions)) + 1):
        projector = torch.eye(data.features.shape[1], device=edits.device) - directions[:count].T @ directions[:count]
        left = float(((moves @ projector) ** 2).sum()) / total if total else 0.0
        after = read_values(edits @ projector, values) if count else before
        features = data.features @ projector
        scaler = Scaler.of(features)
        for strength, head in fit_path(scaler(features), data.labels, num_classes, strengths=STRENGTHS):
            folded = scaler.folded(head)
            words = (
                f"without {count} of {data.features.shape[1]:,} directions, which leaves {100 * left:.0f} % of the "
                f"movement of {len(edits):,} edits; a linear classifier reads their new value in {100 * after:.0f} % "
                f"({100 * before:.0f} % before); C = {strength:g}"
            )
            yield Candidate(head=LinearHead(weight=folded.weight @ projector, bias=folded.bias), words=words)


def read_values(features: Tensor, values: Sequence[str]) -> float:
    """Return the accuracy with which a linear classifier reads values from features (n, dim), on the half held out."""
    known = {value: number for number, value in enumerate(dict.fromkeys(values))}
    labels = torch.tensor([known[value] for value in values], device=features.device)
    half = (len(labels) + 1) // 2
    scaler = Scaler.of(features[:half])
    ((_, head),) = fit_path(scaler(features[:half]), labels[:half], len(known), strengths=(0.1,))
    held = head(scaler(features[half:])).argmax(1) == labels[half:]
    return float(held.float().mean()) if len(held) else 0.0
