"""The pairs of a probe: each accepted edit beside its source and its placebo, and the half that its source is in."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import LeakError
from engine.runfile.probe import ProbeConfig
from engine.statistics import Floats, Ints, SourceBootstrap


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """One row for each accepted edit, joined with its source and its placebo (NaN where there is none).

    The placebo is that of its strategy, drawn in as many turns. Steered edits are left out: chosen or drawn with the
    classifier's answers, they are no fair sample of edits. `cluster` numbers the split keys: sources that share one (a
    garment, a patient) are no independent evidence. They are in one half: `in_discovery` is True where cells are found,
    False where they are scored.
    """

    keys: list[str]
    source: Ints
    cluster: Ints
    in_discovery: NDArray[np.bool_]
    label: Ints
    kind: Ints
    before: list[str]
    after: Ints
    strategy: Ints
    severity: Floats
    classes: dict[int, str]
    kinds: list[str]
    afters: list[str]
    strategies: list[str]
    right_source: Floats
    right_placebo: Floats
    right_edit: Floats
    p_source: Floats
    p_placebo: Floats
    p_edit: Floats
    changed: Floats
    splits: dict[str, int]

    @property
    def num_clusters(self) -> int:
        """Return the number of split keys with an edit."""
        return int(self.cluster.max()) + 1 if len(self.cluster) else 0

    def bootstrap(self, config: ProbeConfig, seed: int) -> SourceBootstrap:
        """Return the bootstrap over the split keys."""
        num_draws, confidence = config.num_bootstraps, config.confidence
        return SourceBootstrap(max(1, self.num_clusters), num_draws=num_draws, confidence=confidence, seed=seed)

    @property
    def has_placebos(self) -> bool:
        """Return whether any source with an edit has a placebo."""
        return bool(np.isfinite(self.right_placebo).any())

    @property
    def right_unedited(self) -> Floats:
        """Return whether the placebo was right, of a source without a placebo the source itself."""
        return np.where(np.isfinite(self.right_placebo), self.right_placebo, self.right_source)


def read_pairs(table: pa.Table) -> Pairs:
    """Join the predictions of a probe by source; raise LeakError where one is of the test split."""
    rows = table.to_pylist()
    leaked = next((row for row in rows if row["split"] == "test"), None)
    if leaked is not None:
        raise LeakError(
            f"source {leaked['source_key']!r} is of the test split: the probe reads train and validation sources only"
        )
    sources = {row["source_key"]: row for row in rows if row["role"] == "source"}
    placebos = {_control_of(row): row for row in rows if row["role"] == "placebo" and row["accepted"]}
    edits = [row for row in rows if _is_fair_edit(row) and row["source_key"] in sources]
    before = [sources[row["source_key"]] for row in edits]
    same = [placebos.get(_control_of(row)) for row in edits]
    kinds, afters, strategies = (
        sorted({row[name] or "" for row in edits}) for name in ("edit_kind", "edit_after", "edit_strategy")
    )
    keys = list(dict.fromkeys(row["source_key"] for row in edits))
    clusters = list(dict.fromkeys(row["split_key"] for row in edits))
    halves = {key: finds_cells(key) for key in clusters}
    splits = [sources[key]["split"] for key in keys]
    return Pairs(
        keys=[row["key"] for row in edits],
        source=_positions([row["source_key"] for row in edits], keys),
        cluster=_positions([row["split_key"] for row in edits], clusters),
        in_discovery=np.array([halves[row["split_key"]] for row in edits], np.bool_),
        label=np.array([row["label"] for row in edits], np.int64),
        kind=_positions([row["edit_kind"] for row in edits], kinds),
        before=[row["edit_before"] for row in edits],
        after=_positions([row["edit_after"] for row in edits], afters),
        strategy=_positions([row["edit_strategy"] or "" for row in edits], strategies),
        severity=np.array([row["edit_severity"] for row in edits], np.float64),
        classes={row["label"]: row["class_name"] for row in edits},
        kinds=kinds,
        afters=afters,
        strategies=strategies,
        right_source=np.array([_right(row) for row in before]),
        right_placebo=np.array([_right(row) if row else math.nan for row in same]),
        right_edit=np.array([_right(row) for row in edits]),
        p_source=np.array([row["p_label"] for row in before], np.float64),
        p_placebo=np.array([row["p_label"] if row else math.nan for row in same], np.float64),
        p_edit=np.array([row["p_label"] for row in edits], np.float64),
        changed=np.array(
            [float(row["prediction"] != old["prediction"]) for row, old in zip(edits, before, strict=True)]
        ),
        splits={split: splits.count(split) for split in sorted(set(splits))},
    )


def finds_cells(split_key: str) -> bool:
    """Return whether a split key is in the discovery half; the others are in the scoring half.

    The hash has no seed: nobody can draw halves until a cell looks as it should.
    """
    return bool(hashlib.blake2b(f"half/{split_key}".encode(), digest_size=1).digest()[0] & 1)


def _is_fair_edit(row: dict[str, Any]) -> bool:
    """Return whether a row is an accepted edit that the classifier's answers had no part in."""
    return bool(row["role"] == "counterfactual" and row["accepted"] and not row["edit_steered"])


def _control_of(row: dict[str, Any]) -> tuple[str, str, int]:
    """Return what an edit and its placebo have in common: their source, what draws them, and in how many turns.

    Predictions of older runs have no turns.
    """
    return row["source_key"], row["edit_strategy"] or "", row.get("edit_turn") or 1


def _positions(values: Sequence[str], known: Sequence[str]) -> Ints:
    position = {value: index for index, value in enumerate(known)}
    return np.array([position[value] for value in values], np.int64)


def _right(row: dict[str, Any]) -> float:
    return float(row["prediction"] == row["label"])
