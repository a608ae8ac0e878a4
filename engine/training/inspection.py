"""What the shards that are done hold for training, each checked for leaks, and how often each edit is drawn."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from engine.plan.plan import Plan
from engine.plan.splits import SPLITS, splits_of
from engine.run.directory import WEAKNESS, RunDirectory
from engine.runfile.data import Splits
from engine.runfile.reinforce import ReinforceConfig
from engine.sample import Split
from engine.training.emphasis import EditCell, draws_of_cells
from engine.training.recipe import ShardContents, inspect_shard

READERS = 8


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


def edit_draws(rundir: RunDirectory, config: ReinforceConfig, contents: Iterable[ShardContents]) -> dict[EditCell, int]:
    """Return how often an edit of each cell is drawn by what the probe found; 0 where its phrase is held out."""
    weakness = cast(dict[str, Any], rundir.read_json(WEAKNESS)) if rundir.exists(WEAKNESS) else None
    shards = list(contents)
    drawn = sorted({cell for shard in shards for cell in shard.cells})
    never = dict.fromkeys((cell for shard in shards for cell in shard.held_out), 0)
    return draws_of_cells(weakness, drawn, config.emphasis) | never
