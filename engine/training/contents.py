"""The contents of finished shards as training material: checked for leaks, counted by cell, and how often drawn."""

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

from engine.errors import LeakError
from engine.plan.plan import Plan
from engine.plan.splits import SPLITS, splits_of
from engine.run.directory import WEAKNESS, RunDirectory
from engine.runfile.arms import EditsConfig
from engine.runfile.data import Splits
from engine.runfile.reinforce import ReinforceConfig
from engine.sample import Edit, Sample, Split
from engine.training.held_out import is_held_out, is_of_share

READERS = 8
# Class name, kind of edit, and the value that it puts in.
EditCell = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class ShardContents:
    """Number of accepted counterfactuals in one finished shard: of train sources by cell, and of validation sources.

    `held_out` counts those of train sources that are never drawn, as their phrase is held out.
    """

    shard: int
    cells: Mapping[EditCell, int]
    validation: int
    held_out: Mapping[EditCell, int] = field(default_factory=dict)

    @property
    def train(self) -> int:
        """Return the number of counterfactuals of train sources."""
        return sum(self.cells.values())


def inspect_shards(
    rundir: RunDirectory, config: ReinforceConfig, splits: Mapping[str, Split], shards: Iterable[int] | None = None
) -> tuple[ShardContents, ...]:
    """Return the contents of these shards, by default of all that are done; raise LeakError, naming shard and key.

    `splits` is the split of each source key, as `source_splits` computes it. No image is read.
    """

    def inspect(index: int) -> ShardContents:
        return inspect_shard(index, (entry.sample() for entry in rundir.walk_shard(index)), splits, config)

    with ThreadPoolExecutor(READERS) as pool:
        return tuple(pool.map(inspect, rundir.done() if shards is None else shards))


def source_splits(plan: Plan, splits: Splits, seed: int) -> dict[str, Split]:
    """Return the split of every source of the plan by its key, computed again from the hash of its split key."""
    keys = plan.split_keys()
    places = splits_of(list(keys.values()), splits, seed)
    return {key: SPLITS[place] for key, place in zip(keys, places.tolist(), strict=True)}


def edit_harm(rundir: RunDirectory, contents: Iterable[ShardContents]) -> dict[EditCell, float | None]:
    """Return how much an edit of each cell lowers accuracy: 1 in the weakest, 0 in a harmless one.

    By weakness.json, 0 where nothing was probed; None where the phrase is held out of training.
    """
    weakness = cast(dict[str, Any], rundir.read_json(WEAKNESS)) if rundir.exists(WEAKNESS) else None
    shards = list(contents)
    drawn = sorted({cell for shard in shards for cell in shard.cells})
    never = dict.fromkeys(cell for shard in shards for cell in shard.held_out)
    return {**harm_of_cells(weakness, drawn), **never}


def edit_draws(
    edits: EditsConfig, config: ReinforceConfig, harm: Mapping[EditCell, float | None]
) -> dict[EditCell, int]:
    """Return how often a round has an edit of each cell: 0 times where its phrase is held out.

    By weakness it is `emphasis` times in the weakest cell, once in a harmless one, in between in proportion.
    """
    most = config.emphasis if edits.by == "weakness" else 0
    return {cell: 0 if value is None else max(1, round(most * value)) for cell, value in harm.items()}


def inspect_shard(
    shard: int,
    samples: Iterable[Sample],
    splits: Mapping[str, Split],
    config: ReinforceConfig,
) -> ShardContents:
    """Count the counterfactuals of a shard; raise LeakError where a source is not in the split it should be in.

    `splits` is the split of each source key, computed again from the plan: what a sample says of itself is not enough.
    """
    cells: Counter[EditCell] = Counter()
    held_out: Counter[EditCell] = Counter()
    validation = 0
    for sample in samples:
        refuse_leak(f"{shard:06d}", sample.key, sample.split, splits.get(sample.source_key))
        if (edit := fair_edit(sample)) is None:
            continue
        if sample.split != "train":
            validation += 1
        elif is_of_share(sample.key, config.edit_share):
            aside = is_held_out(edit.kind, edit.after, config.held_out_phrases)
            (held_out if aside else cells)[sample.class_name, edit.kind, edit.after] += 1
    return ShardContents(shard=shard, cells=dict(cells), validation=validation, held_out=dict(held_out))


def fair_edit(sample: Sample) -> Edit | None:
    """Return the edit of an accepted counterfactual, None for any other sample.

    Steered edits are left out: chosen with the classifier's answers, they are no fair sample to train and be scored on.
    """
    edit = sample.edit
    is_fair = sample.role == "counterfactual" and edit is not None and not edit.steered and sample.is_accepted
    return edit if is_fair else None


def is_trained_on(sample: Sample, config: ReinforceConfig) -> bool:
    """Return whether a sample is an edit that arms with edits draw, as `inspect_shard` counts them in `cells`."""
    return (
        sample.split == "train"
        and (edit := fair_edit(sample)) is not None
        and is_of_share(sample.key, config.edit_share)
        and not is_held_out(edit.kind, edit.after, config.held_out_phrases)
    )


def refuse_leak(shard: str, key: str, recorded: str, true: Split | None) -> None:
    """Raise LeakError, naming shard and key, unless a sample is of the train or validation split and is recorded so."""
    where = f"shard {shard}, sample {key}"
    remedy = "nothing was trained: delete the shard and its marker, then run `counterforge generate`"
    if true is None:
        raise LeakError(f"{where}: its source is not in the plan, so its split cannot be told; {remedy}")
    if "test" in (recorded, true):
        raise LeakError(f"{where}: its source is of the test split (recorded {recorded}, by its hash {true}); {remedy}")
    if recorded != true:
        raise LeakError(f"{where}: recorded as {recorded}, but by its hash its source is of the {true} split; {remedy}")


def harm_of_cells(weakness: Mapping[str, Any] | None, cells: Iterable[EditCell]) -> dict[EditCell, float]:
    """Return the accuracy drop of each cell as a share of the largest one, 0 for all where none lowers accuracy.

    The drop is that of the cell's own row of weakness.json; without one the larger of those of its value in all classes
    and of its class with all values, as a habit is of a class, or of a value, or of both; else that of its kind.
    """
    rows = (*weakness["cells"], *weakness["by_kind"]) if weakness else ()
    drops = {
        (row["class_name"], row["kind"], row["after"]): float(row["tested_drop"])
        for row in rows
        if row["tested_drop"] is not None
    }
    harm = {cell: _harm(cell, drops) for cell in cells}
    top = max(harm.values(), default=0.0)
    return {cell: value / top if top > 0 else 0.0 for cell, value in harm.items()}


def _harm(cell: EditCell, drops: Mapping[tuple[str | None, str | None, str | None], float]) -> float:
    class_name, kind, after = cell
    for rows in ([cell], [(None, kind, after), (class_name, kind, None)], [(None, kind, None)]):
        if known := [drops[row] for row in rows if row in drops]:
            return max(0.0, *known)
    return 0.0
