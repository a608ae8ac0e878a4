"""What a person sees of a training while it runs: each line of history, when a worker has written it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, cast

from cluster.monitor.tensorboard import write_scalars
from engine.errors import RunDirectoryError
from engine.run.directory import RunDirectory
from engine.training.settings import TrainSettings

LOG = logging.getLogger(__name__)
POLL_S = 1.0


@contextmanager
def logged_history(rundir: RunDirectory, settings: TrainSettings) -> Iterator[None]:
    """Log each line of history when a worker has written it, and give it to TensorBoard, from a thread of its own."""
    stop, said = Event(), len(_lines(rundir, settings))
    # Of a training that goes on, also what was written just before it ended.
    write_scalars(rundir, settings.name, _lines(rundir, settings))

    def follow() -> None:
        nonlocal said
        last = False
        while not last:
            last = stop.wait(POLL_S)
            lines = _lines(rundir, settings)
            for line in lines[said:]:
                LOG.info("reinforce: %s", _describe(line, settings.config.num_steps))
            write_scalars(rundir, settings.name, lines[said:])
            said = max(said, len(lines))

    if said:
        LOG.info("reinforce: goes on after %s", _describe(_lines(rundir, settings)[-1], settings.config.num_steps))
    thread = Thread(target=follow, name="reinforce-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _lines(rundir: RunDirectory, settings: TrainSettings) -> list[dict[str, Any]]:
    try:
        return cast(list[dict[str, Any]], rundir.read_json(settings.history_path))
    except RunDirectoryError:
        return []


def _describe(line: Mapping[str, Any], num_steps: int) -> str:
    edits = line["validation_edits_accuracy"]
    seen = f", {line['num_shards']}/{line['of_shards']} shards" if line.get("num_shards") else ""
    return (
        f"{line['arm']}: step {line['step']}/{num_steps}{seen}, loss {line['loss']:.3f}, "
        f"validation {100 * line['validation_accuracy']:.1f} %"
        f"{'' if edits is None else f', edits {100 * edits:.1f} %'}, {line['images_per_second']:.0f} images/s"
    )
