"""The history of a training while it runs: log lines and TensorBoard files (`tensorboard --logdir RUN/tensorboard`).

One small event file a history line, written whole and never changed, so that it works in an object store and a resumed
training adds what is missing. TensorBoard reads the files of one folder in the order of their names.
"""

import logging
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, cast

from engine.errors import RunDirectoryError
from engine.run.directory import RunDirectory
from engine.training.settings import TrainSettings

LOG = logging.getLogger(__name__)
POLL_S = 1.0
FOLDER = "tensorboard"
# Keys of a history line that are not scalars of the training.
NAMES = ("arm", "step")

Line = Mapping[str, Any]


@contextmanager
def logged_history(rundir: RunDirectory, settings: TrainSettings) -> Iterator[None]:
    """Log each new history line and write it for TensorBoard, from a background thread, while the body runs."""
    num_steps = settings.config.num_steps
    lines = _read_history(rundir, settings)
    stop, num_logged = Event(), len(lines)
    # Also the lines of a resumed training that were written just before it was interrupted.
    write_scalars(rundir, settings.name, lines)
    if lines:
        LOG.info("reinforce: goes on after %s", _describe(lines[-1], num_steps))

    def follow() -> None:
        nonlocal num_logged
        is_last = is_probe_logged = False
        while not is_last:
            is_last = stop.wait(POLL_S)
            if not is_probe_logged and rundir.exists(settings.probe_path):
                is_probe_logged = True
                LOG.info("reinforce: %s", cast(dict[str, str], rundir.read_json(settings.probe_path))["sentence"])
            new = _read_history(rundir, settings)[num_logged:]
            for line in new:
                LOG.info("reinforce: %s", _describe(line, num_steps))
            write_scalars(rundir, settings.name, new)
            num_logged += len(new)

    thread = Thread(target=follow, name="reinforce-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _read_history(rundir: RunDirectory, settings: TrainSettings) -> list[dict[str, Any]]:
    try:
        return cast(list[dict[str, Any]], rundir.read_json(settings.history_path))
    except RunDirectoryError:
        return []


def _describe(line: Line, num_steps: int) -> str:
    edits = line["validation_edits_accuracy"]
    seen = f", {line['num_shards']}/{line['of_shards']} shards" if line.get("num_shards") else ""
    return (
        f"{line['arm']}: step {line['step']}/{num_steps}{seen}, loss {line['loss']:.3f}, "
        f"validation {100 * line['validation_accuracy']:.1f} %"
        f"{'' if edits is None else f', edits {100 * edits:.1f} %'}, {line['images_per_second']:.0f} images/s"
    )


def write_scalars(rundir: RunDirectory, training: str, lines: Sequence[Line]) -> None:
    """Write the history lines that are not there yet, to tensorboard/<training>/<arm>."""
    for arm in dict.fromkeys(line["arm"] for line in lines):
        folder = f"{FOLDER}/{training}/{arm}"
        present = set(rundir.storage.list(folder))
        for line in lines:
            name = f"events.out.tfevents.{line['step']:010d}.counterforge"
            if line["arm"] == arm and name not in present:
                rundir.storage.write(f"{folder}/{name}", _event_file(line, time.time()))


def _event_file(line: Line, wall_time: float) -> bytes:
    """Return an event file with every number of one history line, at its step."""
    # tensorboardX is a dependency of ray[train], so it is there wherever a training runs.
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    values = [
        Summary.Value(tag=name, simple_value=float(value))
        for name, value in line.items()
        if name not in NAMES and isinstance(value, int | float)
    ]
    events = [
        Event(wall_time=wall_time, file_version="brain.Event:2"),
        Event(wall_time=wall_time, step=line["step"], summary=Summary(value=values)),
    ]
    return b"".join(_record(event.SerializeToString()) for event in events)


def _record(data: bytes) -> bytes:
    """Return a record of the TFRecord format: length, its checksum, data, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))
