"""The pairs of a probe: each accepted edit beside its source and its placebo."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import LeakError
from engine.statistics import Floats, Ints

COLUMNS = [
    "source_key",
    "role",
    "split",
    "label",
    "class_name",
    "edit_kind",
    "edit_after",
    "accepted",
    "prediction",
    "p_label",
]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Hold one row an accepted edit, joined with its source and its placebo (NaN where there is none)."""

    source: Ints
    label: Ints
    kind: Ints
    after: Ints
    classes: dict[int, str]
    kinds: list[str]
    afters: list[str]
    right_source: Floats
    right_placebo: Floats
    right_edit: Floats
    p_source: Floats
    p_placebo: Floats
    p_edit: Floats
    changed: Floats
    splits: dict[str, int]

    @property
    def num_sources(self) -> int:
        """Return the number of sources with an edit."""
        return int(self.source.max()) + 1 if len(self.source) else 0


def read_pairs(table: pa.Table) -> Pairs:
    """Join the predictions of a probe by source; raise LeakError where one is of the test split."""
    rows = table.select(COLUMNS).to_pylist()
    leaked = next((row for row in rows if row["split"] == "test"), None)
    if leaked is not None:
        raise LeakError(
            f"source {leaked['source_key']!r} is of the test split: the probe reads train and validation sources only"
        )
    sources = {row["source_key"]: row for row in rows if row["role"] == "source"}
    placebos = {row["source_key"]: row for row in rows if row["role"] == "placebo" and row["accepted"]}
    edits = [
        row for row in rows if row["role"] == "counterfactual" and row["accepted"] and row["source_key"] in sources
    ]
    before = [sources[row["source_key"]] for row in edits]
    same = [placebos.get(row["source_key"]) for row in edits]
    kinds, afters = sorted({row["edit_kind"] for row in edits}), sorted({row["edit_after"] for row in edits})
    keys = {key: index for index, key in enumerate(dict.fromkeys(row["source_key"] for row in edits))}
    splits = [sources[key]["split"] for key in keys]
    return Pairs(
        source=np.array([keys[row["source_key"]] for row in edits], np.int64),
        label=np.array([row["label"] for row in edits], np.int64),
        kind=_positions([row["edit_kind"] for row in edits], kinds),
        after=_positions([row["edit_after"] for row in edits], afters),
        classes={row["label"]: row["class_name"] for row in edits},
        kinds=kinds,
        afters=afters,
        right_source=np.array([_right(row) for row in before]),
        right_placebo=np.array([_right(row) if row else math.nan for row in same]),
        right_edit=np.array([_right(row) for row in edits]),
        p_source=np.array([row["p_label"] for row in before], np.float64),
        p_placebo=np.array([row["p_label"] if row else math.nan for row in same], np.float64),
        p_edit=np.array([row["p_label"] for row in edits], np.float64),
        changed=np.array(
            [float(row["prediction"] != first["prediction"]) for row, first in zip(edits, before, strict=True)]
        ),
        splits={split: splits.count(split) for split in sorted(set(splits))},
    )


def _positions(values: Sequence[str], known: Sequence[str]) -> Ints:
    position = {value: index for index, value in enumerate(known)}
    return np.array([position[value] for value in values], np.int64)


def _right(row: dict[str, Any]) -> float:
    return float(row["prediction"] == row["label"])
