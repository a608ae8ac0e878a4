"""What the shards that are done hold for training, each checked for leaks, and how often each edit is drawn."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from engine.plan.splits import SPLITS, splits_of
from engine.run.directory import WEAKNESS, RunDirectory
from engine.runfile.run import RunFile
from engine.sample import Split
from engine.training.emphasis import EditCell, draws_of_cells
from engine.training.recipe import ShardContents, inspect_shard

READERS = 8


def inspect_shards(
    run: RunFile,
    rundir: RunDirectory,
    shards: Iterable[int] | None = None,
    splits: Mapping[str, Split] | None = None,
) -> tuple[ShardContents, ...]:
    """Return the contents of these shards, by default of all that are done; raise LeakError, naming shard and key.

    The split of each source is computed again from the hash of its split key, unless `splits` is just that. What the
    shards say is read, and no image.
    """
    true = source_splits(run, rundir) if splits is None else splits
    with ThreadPoolExecutor(READERS) as pool:
        return tuple(
            pool.map(
                lambda index: inspect_shard(
                    index, (entry.sample() for entry in rundir.walk_shard(index)), true, run.reinforce
                ),
                rundir.done() if shards is None else shards,
            )
        )


def source_splits(run: RunFile, rundir: RunDirectory) -> dict[str, Split]:
    """Return the split of every source of the plan by its key, computed from the hash of its split key."""
    keys = rundir.plan().split_keys()
    places = splits_of(list(keys.values()), run.data.splits, run.seed)
    return {key: SPLITS[place] for key, place in zip(keys, places.tolist(), strict=True)}


def edit_draws(run: RunFile, rundir: RunDirectory, contents: Iterable[ShardContents]) -> dict[EditCell, int]:
    """Return how often the arm `reinforced` draws an edit of each cell, by what the probe found; 0 where held out."""
    weakness = cast(dict[str, Any], rundir.read_json(WEAKNESS)) if rundir.exists(WEAKNESS) else None
    shards = list(contents)
    drawn = sorted({cell for shard in shards for cell in shard.cells})
    never = dict.fromkeys((cell for shard in shards for cell in shard.held_out), 0)
    return draws_of_cells(weakness, drawn, run.reinforce.emphasis) | never
