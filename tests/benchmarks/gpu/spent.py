"""Where the milliseconds of an image go: the engine's own parts, each waited for until the GPU has done it.

Waiting takes the overlap away that a run has: the parts add up to more than an image takes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch

from actors.editor.slots import batcher as slots
from actors.editor.slots.drawing import SlotDrawing
from actors.images import finisher as finish
from actors.images import pictures
from engine.figures.figures import Figure
from tests.benchmarks.gpu import arms
from tests.benchmarks.gpu.arms import VERIFIER, Engine


class Clock:
    """Add up the seconds of parts, what is inside another part counted for itself alone."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: Counter[str] = Counter()
        self._device = device
        self._inside: list[float] = []

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Time what is done inside."""
        self._wait()
        start = perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            self._wait()
            took = perf_counter() - start
            self.seconds[part] += took - self._inside.pop()
            if self._inside:
                self._inside[-1] += took

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that times its calls."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 any function's
            with self.timing(part):
                return call(*args, **kwargs)

        return wrapped

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def spent_figures(name: str, engine: Engine) -> Iterator[Figure]:
    """Yield the milliseconds of an image by part, of one pass over all shards."""
    clock = Clock(engine.editor.device)
    drawing = engine.editor.drawing
    assert isinstance(drawing, SlotDrawing)
    parts: list[tuple[str, object, str]] = [
        ("read", arms, "read_planned"),
        ("decode_jpeg", pictures, "decode_rgb"),
        ("encode", drawing._vae, "encode"),
        ("prompts", drawing._prompts, "add"),
        ("unet", drawing._batcher, "denoise"),
        ("step", slots.SlotBatcher, "_tick"),
        ("decode", drawing._vae, "decode_latents"),
        ("uint8", finish, "to_pixels"),
        ("copy", finish.Finisher, "start"),
        ("jpeg", finish, "encode_jpeg"),
        ("tar", arms, "commit_row"),
    ]
    with ExitStack() as stack:
        for part, owner, attribute in parts:
            stack.enter_context(patch.object(owner, attribute, clock.timed(part, getattr(owner, attribute))))
        stack.enter_context(
            patch.dict(
                engine.stages,
                {VERIFIER: _listed(clock.timed("verify", _listed(engine.stages[VERIFIER])))},
            )
        )
        # One after the other, or the parts of threads would be counted into one another.
        stack.enter_context(patch.object(engine, "threads", _AtOnce()))
        stack.enter_context(patch.object(engine.editor.finisher, "_pool", _AtOnce()))
        with clock.timing("rest"):
            engine()
    num_images = engine.plan.num_edited
    for part, seconds in clock.seconds.items():
        yield Figure(name=f"{name}.spent.{part}", value=1000 * seconds / num_images, n=num_images, unit="ms an image")


class _AtOnce(Executor):
    """Call what is submitted before it returns."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 any function's
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future


def _listed(stage: Callable[..., Any]) -> Callable[..., Any]:
    return lambda batch: list(stage(batch))
