"""A stage that takes as long as a GPU would, and a source of real JPEGs for it."""

import io
import os
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from engine.sample import Edit, Sample, content_seed

SIZE = 224
LOOK_S = 0.05


def gpu_seconds(source_key: str, mean_s: float, spread: float) -> float:
    """Return the GPU seconds of the shard whose first source has this key, within `spread` of the mean."""
    return mean_s * (1 + spread * (content_seed(0, source_key) / 2**62 - 1))


class SimulatedGpu:
    """Edit no pixel: sleep for the shard's GPU seconds, then yield each source with one edit of it.

    Options: `load_s`, the seconds it takes to start, `mean_s`, `spread`, a folder `meeting` in which the actors wait
    for one another, as none starts to work before `num_actors` of them are there, and a folder `waits`, to which each
    writes how long it had no shard at work between two of them.
    """

    def __init__(self, options: Mapping[str, object], device: object, *, name: str, seed: int) -> None:
        self._mean_s, self._spread = float(str(options["mean_s"])), float(str(options["spread"]))
        self._meeting, self._num_actors = Path(str(options["meeting"])), int(str(options["num_actors"]))
        self._waits = Path(str(options["waits"])) / str(os.getpid())
        self._ended: float | None = None
        time.sleep(float(str(options["load_s"])))
        (self._meeting / str(os.getpid())).touch()

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample]:
        """Sleep, then yield."""
        while len(os.listdir(self._meeting)) < self._num_actors:
            time.sleep(LOOK_S)
        if self._ended is not None:
            with self._waits.open("a") as file:
                file.write(f"{time.perf_counter() - self._ended:.6f}\n")
        time.sleep(gpu_seconds(batch[0].key, self._mean_s, self._spread))
        self._ended = time.perf_counter()
        for source in batch:
            edit = Edit(kind="colour", before="", after="", instruction="", caption=source.caption)
            yield source
            yield replace(source, key=f"{source.key}_cf00", role="counterfactual", edit=edit)


def write_images(path: Path, num_images: int) -> None:
    """Write a tar of noisy JPEGs of the size that classifiers want, in two classes."""
    chance = np.random.default_rng(0)
    noise = (chance.integers(0, 256, (28, 28, 3), dtype=np.uint8) for _ in range(num_images))
    write_tar(path, (Image.fromarray(coarse).resize((SIZE, SIZE)) for coarse in noise))


def write_tar(path: Path, pictures: Iterable[Image.Image]) -> None:
    """Write pictures as JPEGs into a tar, in two classes that take turns."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, picture in enumerate(pictures):
            output = io.BytesIO()
            picture.save(output, "JPEG", quality=95)
            for name, data in ((f"{number:06d}.jpg", output.getvalue()), (f"{number:06d}.cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
