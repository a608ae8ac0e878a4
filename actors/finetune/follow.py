"""Training while the images are still being made: which shards are done, and the steps of the arm that follows them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from actors.finetune.images import RunImages
from actors.finetune.state import FinetuneTask
from actors.finetune.stream import Place
from engine.errors import EngineError, RunError
from engine.run.directory import RunDirectory
from engine.training.emphasis import EditCell
from engine.training.inspection import edit_draws, inspect_shards
from engine.training.recipe import ShardContents, nothing_came

POLL_S = 2.0


class StoppedError(Exception):
    """Carry an error of the run that every worker raises at the same place, so that none waits for the others."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, kw_only=True)
class Look:
    """Hold what a look at the run directory found: shards that are done, those among them that are new, the draws."""

    num_done: int
    num_shards: int
    new: tuple[ShardContents, ...]
    draws: Mapping[EditCell, int]

    @property
    def is_complete(self) -> bool:
        """Return whether all shards of the plan are done."""
        return self.num_done == self.num_shards


class Follower:
    """Look what is done, for all workers alike: the first one looks, checks for leaks and tells the others."""

    def __init__(self, task: FinetuneTask, images: RunImages, place: Place) -> None:
        self._task = task
        self._images = images
        self._place = place
        self._rundir = RunDirectory.open(task.rundir)
        self._known: dict[int, ShardContents] = {}
        # Not the time of the steps between: while there is something to train on, nobody waits.
        self._waited_s = 0.0

    def look(self) -> Look:
        """Have the images draw from all shards that are done; all workers must call it.

        Raises StoppedError where one of them holds what must not be trained on, or none came in a long wait.
        """
        box: list[Look | EngineError | None] = [None]
        if self._place.rank == 0:
            try:
                box = [self._look()]
            except EngineError as error:
                box = [error]
        torch.distributed.broadcast_object_list(box)
        (found,) = box
        if isinstance(found, EngineError):
            raise StoppedError(found)
        assert found is not None
        self._known |= {shard.shard: shard for shard in found.new}
        self._images.draw_from(tuple(shard for _, shard in sorted(self._known.items())), found.draws)
        return found

    def wait(self) -> None:
        """Let some time pass before the next look."""
        if self._place.rank == 0:
            time.sleep(POLL_S)
            self._waited_s += POLL_S

    def _look(self) -> Look:
        run = self._task.run
        done, num_shards = self._rundir.done(), self._rundir.info.num_shards
        new = inspect_shards(run, self._rundir, sorted(set(done) - set(self._known)), self._images.splits)
        limit = run.reinforce.follow_timeout_s
        if new:
            self._waited_s = 0.0
        elif len(done) < num_shards and self._waited_s >= limit:
            raise RunError(nothing_came(limit, len(done), num_shards))
        draws = edit_draws(run, self._rundir, (*self._known.values(), *new))
        return Look(num_done=len(done), num_shards=num_shards, new=new, draws=draws)
