"""Training while the images are still being made: which shards are done, and the steps of the arm that follows them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from actors.finetune.arm_run import ArmRun
from actors.finetune.images import RunImages
from actors.finetune.stream import Place
from engine.errors import EngineError, RunError
from engine.run.directory import RunDirectory
from engine.training.contents import EditCell, ShardContents, edit_harm, inspect_shards
from engine.training.recipe import nothing_came, steps_allowed, steps_between_looks
from engine.training.settings import TrainSettings

POLL_S = 2.0


class StoppedError(Exception):
    """Carry an error of the run that every worker raises at the same place, so that none waits for the others."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, kw_only=True)
class Look:
    """The state of the run directory: shards that are done, the contents of new ones, and how often edits are drawn."""

    num_done: int
    num_shards: int
    new: tuple[ShardContents, ...]
    harm: Mapping[EditCell, float | None]

    @property
    def is_complete(self) -> bool:
        """Return whether all shards of the plan are done."""
        return self.num_done == self.num_shards


class Follower:
    """Look which shards are done, for all workers alike: the first worker looks, checks for leaks, tells the others."""

    def __init__(self, settings: TrainSettings, images: RunImages, place: Place) -> None:
        self.config = settings.config
        self._images = images
        self._place = place
        self._rundir = RunDirectory.open(settings.rundir)
        self._known: dict[int, ShardContents] = {}
        # Not the time of the steps between: while there is something to train on, nobody waits.
        self._waited_s = 0.0

    def look(self) -> Look:
        """Have the images draw from all shards that are done, and score on them once all are; all workers must call it.

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
        self._images.draw_from(tuple(shard for _, shard in sorted(self._known.items())), found.harm)
        if found.is_complete:
            self._images.score_on(self._images.contents)
        return found

    def wait(self) -> None:
        """Let some time pass before the next look."""
        if self._place.rank == 0:
            time.sleep(POLL_S)
            self._waited_s += POLL_S

    def wait_for_edits(self) -> bool:
        """Return whether there is an edit to train on, once there is one or all shards are done."""
        while not self.look().is_complete and not self._images.num_edits:
            self.wait()
        return self._images.num_edits > 0

    def wait_for_all(self) -> None:
        """Wait until all shards are done."""
        while not self.look().is_complete:
            self.wait()

    def _look(self) -> Look:
        done, num_shards = self._rundir.done(), self._rundir.info.num_shards
        new = inspect_shards(self._rundir, self.config, self._images.splits, sorted(set(done) - set(self._known)))
        limit = self.config.follow_timeout_s
        if new:
            self._waited_s = 0.0
        elif len(done) < num_shards and self._waited_s >= limit:
            raise RunError(nothing_came(limit, len(done), num_shards))
        harm = edit_harm(self._rundir, (*self._known.values(), *new))
        return Look(num_done=len(done), num_shards=num_shards, new=new, harm=harm)


def follow_shards(run: ArmRun, follower: Follower) -> None:
    """Train an arm in pace with the shards until all are done; no weights of this time are a candidate."""
    count = steps_between_looks(follower.config)
    while not (look := follower.look()).is_complete:
        last = run.record.step + count
        if last > steps_allowed(follower.config, look.num_done, look.num_shards):
            follower.wait()
            continue
        batches = run.batches()
        entry, _ = run.make_steps(batches, last)
        batches.close()
        run.record = run.record.add_line(replace(entry, num_shards=look.num_done, of_shards=look.num_shards))
        run.report()
