"""From a batch of floats to bytes in a tar: against what diffusers and webdataset do, and against the bare encoder.

Our arm makes pixels of floats, JPEGs of pixels in threads, records and a tar of these, which is hashed and synced. The
stock arm goes through `VaeImageProcessor` to PIL images, saves them as JPEG of the same quality, and gives them to
webdataset's writer. Pictures are cut from the photographs of the wardrobe.
"""

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from actors.images.codec import encode_jpeg
from actors.images.finisher import Finisher
from actors.images.frame import Frame
from actors.models.device import fix_threads
from engine.figures.figures import Figure
from engine.sample import Sample
from engine.shards.tar import encode_shard
from engine.storage.storage import Storage
from tests.benchmarks.pairs import ratio_figure
from tests.benchmarks.writer import MEMORY

TEXTURES = Path(__file__).parents[2] / "engine" / "wardrobe" / "textures"
NUM_PICTURES = {512: 48, 1024: 16}
QUALITY = 95
# From here on the leanest binding of libjpeg-turbo works as exactly as ours always does, and gives the same bytes.
EXACT_QUALITY = 96
CPU = torch.device("cpu")
OURS = "ours.tar"


def finish_figures(folder: Path) -> Iterator[Figure]:
    """Yield figure 9 for pictures of 512 x 512 and 1024 x 1024; the tars are in memory."""
    in_memory = MEMORY / f"counterforge-finish-{os.getpid()}"
    in_memory.mkdir()
    fix_threads(1)
    try:
        for edge, num_pictures in NUM_PICTURES.items():
            yield from _figures(in_memory, make_pictures(num_pictures, edge), edge)
    finally:
        shutil.rmtree(in_memory)


def make_pictures(num_pictures: int, edge: int) -> torch.Tensor:
    """Return pictures (num_pictures, 3, edge, edge), float32 in [0, 1], that are no whole numbers of 255ths."""
    paths = sorted(TEXTURES.glob("*.jpg"))
    chance = np.random.default_rng(0)
    pictures = []
    for number in range(num_pictures):
        with Image.open(paths[number % len(paths)]) as image:
            turned = image.convert("RGB").rotate(90 * (number // len(paths))).resize((edge, edge))
        pictures.append(np.asarray(turned, np.float32) / 255 + chance.normal(0, 0.002, (edge, edge, 3)))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().clamp(0, 1).contiguous()


def _figures(folder: Path, batch: torch.Tensor, edge: int) -> Iterator[Figure]:
    finisher, one_thread = Finisher(QUALITY, CPU), Finisher(EXACT_QUALITY, CPU, num_threads=1)
    ours, stock = _ours(folder, batch, finisher), _stock(folder, batch)
    assert ours() == stock()
    yield ratio_figure(f"finish.times_stock_{edge}", ours, stock, 4.5)
    yield ratio_figure(f"finish.times_stock_{edge}_by_core_time", ours, stock, clock=time.process_time)
    lean, bare = _ours(folder, batch, one_thread), _bare(batch)
    assert lean() == bare()
    yield ratio_figure(f"finish.share_of_encoder_{edge}", lean, bare, 0.93)
    yield ratio_figure(f"finish.share_of_encoder_{edge}_by_core_time", lean, bare, clock=time.process_time)
    yield ratio_figure(f"finish.encoding_share_of_encoder_{edge}", _encoding(batch), bare)


def _ours(folder: Path, batch: torch.Tensor, finisher: Finisher) -> Callable[[], Sequence[bytes]]:
    storage, edge = Storage(str(folder)), batch.shape[-1]
    frame = Frame(pixels=np.empty(0, np.uint8), top=0, left=0, height=edge, width=edge)

    def run() -> Sequence[bytes]:
        begun = [finisher.start(picture, frame) for picture in batch]
        images = [image for each in begun if (image := each.result()) is not None]
        storage.write(OURS, encode_shard(_sample(number, image) for number, image in enumerate(images)))
        return images

    return run


def _stock(folder: Path, batch: torch.Tensor) -> Callable[[], Sequence[bytes]]:
    import webdataset
    from diffusers.image_processor import VaeImageProcessor

    processor = VaeImageProcessor()

    def run() -> Sequence[bytes]:
        images = []
        # The batch is in [0, 1] already.
        pictures = processor.postprocess(batch, output_type="pil", do_denormalize=[False] * len(batch))
        with webdataset.ShardWriter(str(folder / "stock-%d.tar"), verbose=0) as writer:
            for number, picture in enumerate(pictures):
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG", quality=QUALITY)
                images.append(buffer.getvalue())
                writer.write(
                    {"__key__": f"picture-{number}", "jpg": images[-1], "json": {"class_name": "dress"}, "cls": 3}
                )
        return images

    return run


def _bare(batch: torch.Tensor) -> Callable[[], Sequence[bytes]]:
    """Return the bare encoding of pixels that are bytes in their places already."""
    pixels = _pixels(batch)
    settings: dict[str, Any] = {"quality": EXACT_QUALITY, "colorsubsampling": "420"}
    return lambda: [simplejpeg.encode_jpeg(each, **settings) for each in pixels]


def _encoding(batch: torch.Tensor) -> Callable[[], Sequence[bytes]]:
    """Return our encoding alone, of pixels as the conversion leaves them: in four bytes each."""
    pixels = np.pad(_pixels(batch), ((0, 0), (0, 0), (0, 0), (0, 1)))
    return lambda: [encode_jpeg(each, EXACT_QUALITY) for each in pixels]


def _pixels(batch: torch.Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray((batch * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _sample(number: int, image: bytes) -> Sample:
    key = f"picture-{number}"
    return Sample(key=key, source_key=key, role="source", image=image, label=3, class_name="dress", split="train")
