"""TensorBoard logs of a training: each line of history as scalars, `tensorboard --logdir RUN/tensorboard` shows them.

One small file a line, written whole and never changed, so that a log can lie in an object store and a resumed training
adds what is missing. TensorBoard reads the files of one folder in the order of their names.
"""

import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

from engine.run.directory import RunDirectory

FOLDER = "tensorboard"
# What a line of history says of itself and not of the training.
NAMES = ("arm", "step")


def write_scalars(rundir: RunDirectory, training: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the lines of history that are not there yet, to tensorboard/<training>/<arm>."""
    for arm in dict.fromkeys(line["arm"] for line in lines):
        folder = f"{FOLDER}/{training}/{arm}"
        present = set(rundir.storage.list(folder))
        for line in lines:
            name = f"events.out.tfevents.{line['step']:010d}.counterforge"
            if line["arm"] == arm and name not in present:
                rundir.storage.write(f"{folder}/{name}", event_file(line, time.time()))


def event_file(line: Mapping[str, Any], wall_time: float) -> bytes:
    """Return an event file with every number of one line of history, at its step."""
    # Part of what ray[train] needs, so it is there wherever a training runs.
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
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    """Return the masked CRC-32C of the TFRecord format."""
    from tensorboardX.crc32c import crc32c

    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
