"""What it takes to hand an image from one actor to the next: through Ray, as a run does it and as PIL images.

Our arm is all that lies between the samples of one actor and those of the next: shard to block, into Ray's store,
out of it, block to samples, with JPEGs of 65 KB and all that is known of them. The other is a list of decoded images of
512 x 512, as pipelines hand them on that return them. Both on memory that the store has used before.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from PIL import Image

from cluster.dataflow.blocks import from_block, to_block
from cluster.dataflow.shard_row import ShardRow
from cluster.session.placement import Need
from cluster.session.session import ray_session
from engine.figures.figures import Figure
from tests.benchmarks.pairs import ratio_figure
from tests.benchmarks.samples import make_samples

NUM_SOURCES, NUM_PICTURES, EDGE = 32, 32, 512
NUM_CALLS = 5
# Of an actor one shard is at work, one waits for it and one has just left.
NUM_HELD = 3
STORE_BYTES = 2 << 30


def handoff_figures(folder: Path) -> Iterator[Figure]:
    """Yield figure 11 by the image: against PIL images, a copy of the JPEGs, and a bare list of them through Ray."""
    samples = make_samples(NUM_SOURCES)
    keys = [sample.key for sample in samples if sample.role == "source"]
    row = ShardRow(shard=0, planned=keys, samples=samples, seconds={"read": 1.0})
    chance = np.random.default_rng(0)
    pictures = [Image.fromarray(chance.integers(0, 256, (EDGE, EDGE, 3), dtype=np.uint8)) for _ in range(NUM_PICTURES)]
    encoded = [sample.image for sample in samples]
    source = np.frombuffer(b"".join(encoded), np.uint8)
    target = np.empty_like(source)
    per = (float(len(samples)), float(NUM_PICTURES))
    with ray_session([[Need(path="stages.bench", num_cpus=1, num_gpus=0, replicas=(1, 1))]]):
        ours = _often(lambda: from_block(_through_ray(to_block(row))))
        theirs, bare = _often(lambda: _through_ray(pictures)), _often(lambda: _through_ray(encoded))
        assert ours() == row
        assert all(map(_alike, theirs(), pictures))
        _use_store(row)
        yield ratio_figure("handoff.times_pil_list", ours, theirs, 60.0, per=per)
        copied = _often(lambda: np.copyto(target, source))
        yield ratio_figure("handoff.times_memcpy", ours, copied, 3.0, better="lower")
        yield ratio_figure("handoff.share_of_list_of_bytes", ours, bare)


def _through_ray(value: Any) -> Any:  # noqa: ANN401 as Ray, it takes and gives everything
    return ray.get(ray.put(value))


def _often(call: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that makes NUM_CALLS calls and returns the last result, and holds on to the last few."""
    held: deque[Any] = deque(maxlen=NUM_HELD)

    def calls() -> Any:  # noqa: ANN401
        for _ in range(NUM_CALLS):
            held.append(call())
        return held[-1]

    return calls


def _alike(one: Image.Image, other: Image.Image) -> bool:
    return one.tobytes() == other.tobytes()


def _use_store(row: ShardRow) -> None:
    """Have the store use its memory once: what it never used takes four times as long to write into."""
    block = to_block(row)
    ray.get([ray.put(block) for _ in range(STORE_BYTES // sys.getsizeof(row))])
