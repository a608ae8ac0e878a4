"""Encoding of finished pictures: from floats on any device to PNG or JPEG bytes, in threads, while the device works."""

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import torch

from actors.images.codec import encode_jpeg, encode_png
from actors.images.frame import Frame

# Together they encode 1,500 pictures of 512 x 512 a second, more than a GPU makes.
NUM_THREADS = 2
# Pictures that may wait for a thread; their memory is reused, since new memory takes 1.5 times as long to fill.
MAX_AHEAD = 8
# Pixels that, in three colours, stay in a core's cache from one operation to the next.
PIXELS_AT_ONCE = 1 << 16


class Finisher:
    """Encode the pictures of a device in threads, as PNG if no JPEG quality is given.

    The bytes of a picture depend on its values alone. A GPU can go on at once: pixels are copied on a side stream.
    """

    def __init__(self, jpeg_quality: int | None, device: torch.device, *, num_threads: int = NUM_THREADS) -> None:
        self._quality = jpeg_quality
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="finish")
        self._ahead: deque[tuple[Future[bytes | None], torch.Tensor]] = deque()
        self._side: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, picture: torch.Tensor, frame: Frame) -> "Future[bytes | None]":
        """Return a future of the encoded picture inside a square (3, size, size), in [0, 1]; None if it is not finite.

        The square may be overwritten afterwards.
        """
        inside = picture[:, frame.top : frame.top + frame.height, frame.left : frame.left + frame.width]
        memory = self._memory(frame.height * frame.width)
        pixels = memory[: frame.height * frame.width].view(frame.height, frame.width)
        if self._side is None or not picture.is_cuda:
            future = self._pool.submit(self._encode, pixels, to_pixels(inside, pixels))
        else:
            future = self._start_on_gpu(inside, pixels, self._side)
        self._ahead.append((future, memory))
        return future

    def _start_on_gpu(
        self, picture: torch.Tensor, pixels: torch.Tensor, side: torch.cuda.Stream
    ) -> "Future[bytes | None]":
        there = torch.empty(pixels.shape, dtype=pixels.dtype, device=picture.device)
        its_total, total = to_pixels(picture, there), torch.empty((), pin_memory=True)
        side.wait_stream(torch.cuda.current_stream(picture.device))
        is_copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            for source, target in ((there, pixels), (its_total, total)):
                target.copy_(source, non_blocking=True)
                # Its memory is not reused before the copy is done.
                source.record_stream(side)
            is_copied.record(side)
        return self._pool.submit(self._encode, pixels, total, is_copied)

    def _encode(
        self, pixels: torch.Tensor, total: torch.Tensor, is_copied: torch.cuda.Event | None = None
    ) -> bytes | None:
        if is_copied is not None:
            is_copied.synchronize()
        if not math.isfinite(total):
            return None
        rgbx = pixels.numpy().view(np.uint8).reshape(*pixels.shape, 4)
        return encode_png(rgbx) if self._quality is None else encode_jpeg(rgbx, self._quality)

    def _memory(self, num_pixels: int) -> torch.Tensor:
        """Return memory for pixels (num_pixels or more,), reused from the oldest picture once it is encoded."""
        if len(self._ahead) == MAX_AHEAD:
            future, memory = self._ahead.popleft()
            wait([future])
            if len(memory) >= num_pixels:
                return memory
        return torch.empty(num_pixels, dtype=torch.int32, pin_memory=self._side is not None)


@torch.inference_mode()
def to_pixels(picture: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Fill int32 pixels (height, width) from a picture (3, height, width) in [0, 1], and return a sum of its values.

    A pixel is red + 256 green + 65536 blue, in memory the four bytes red, green, blue and 0. Such sums are exact in
    float32, and take a third of the time of interleaving three colours. The sum is finite if all values are.
    """
    height, width = pixels.shape
    num_rows = height if picture.is_cuda else max(1, min(PIXELS_AT_ONCE // width, height))
    memory = torch.empty(3, num_rows, width, device=picture.device)
    total = torch.zeros((), device=picture.device)
    for start in range(0, height, num_rows):
        rows = picture[:, start : start + num_rows].float()
        values = torch.mul(rows, 255, out=memory[:, : rows.shape[1]])
        total += values.sum()
        red, green, blue = values.round_().clamp_(0, 255)
        pixels[start : start + num_rows] = red.add_(green, alpha=256).add_(blue, alpha=65536)
    return total
