"""Plugin stages that really edit pixels, without a model: what a user's own stage looks like."""

import io
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from engine.errors import ModelError
from engine.sample import Edit, Rejection, Sample, Verdict, content_seed

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Counting:
    """Pass everything on, and count it as the stages with models count what they are asked."""

    def __init__(self, options: Mapping[str, object], device: object, *, name: str, seed: int) -> None:
        self.calls: Counter[str] = Counter()

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample]:
        self.calls["asked"] += len(batch)
        yield from batch


class Tint:
    """Make a placebo and one edit a colour of each source, with noise that depends on the sample's key alone."""

    def __init__(self, options: Mapping[str, object], device: object, *, name: str, seed: int) -> None:
        self.options = options
        self.num_shards = 0

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        time.sleep(float(str(self.options.get("sleep_s", 0))))
        self._wait()
        self._die_once()
        for source in batch:
            yield source
            yield self._edited(source, "placebo", "_placebo", (0, 0, 0))
            for number, (name, colour) in enumerate(COLOURS.items()):
                yield self._edited(source, name, f"_cf{number:02d}", colour)

    def _edited(self, source: Sample, name: str, suffix: str, colour: tuple[int, int, int]) -> Sample:
        key = source.key + suffix
        noise = np.random.default_rng(content_seed(0, key)).integers(0, 40, 3)
        with Image.open(io.BytesIO(source.image)) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        output = io.BytesIO()
        tinted = np.clip(pixels // 2 + np.array(colour) // 2 + noise, 0, 255).astype(np.uint8)
        Image.fromarray(tinted).save(output, "JPEG", quality=95)
        kind = "placebo" if name == "placebo" else "colour"
        edit = Edit(kind=kind, before="grey", after=name, instruction=f"make it {name}", caption=f"a {name} thing")
        role = "placebo" if name == "placebo" else "counterfactual"
        return replace(source, key=key, role=role, image=output.getvalue(), edit=edit)

    def _wait(self) -> None:
        """After two shards, go on only once the file is there that the options name."""
        self.num_shards += 1
        path = self.options.get("wait_for")
        while path and self.num_shards > 2 and not Path(str(path)).exists():
            time.sleep(0.1)

    def _die_once(self) -> None:
        """Kill this worker the first time, as a lost machine would, where the options name a file to remember it."""
        path = self.options.get("die_once")
        if path and not Path(str(path)).exists():
            Path(str(path)).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Judge:
    """Accept what is bright, turn down what is dark, and give up on blue."""

    def __init__(self, options: Mapping[str, object], device: object, *, name: str, seed: int) -> None:
        self.options = options

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        for sample in batch:
            if sample.role == "counterfactual" and sample.edit is not None and sample.edit.after == "blue":
                yield Rejection(
                    key=sample.key, source_key=sample.source_key, stage="judge", reason="too_blue", detail="blue"
                )
                continue
            with Image.open(io.BytesIO(sample.image)) as image:
                brightness = float(np.asarray(image).mean())
            accepted = brightness > float(str(self.options.get("min_brightness", 90)))
            verdict = Verdict(accepted=accepted, reasons=() if accepted else ("dark",))
            yield replace(sample, scores={"brightness": brightness}, verdict=verdict)


class Poison:
    """Do to itself what the options say of a sample's key."""

    def __init__(self, options: Mapping[str, object], device: object, *, name: str, seed: int) -> None:
        self.options = options

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        for sample in batch:
            self._act(self.options.get(sample.key))
            yield sample

    def _act(self, how: object) -> None:
        match how:
            case "raise":
                raise ValueError("first line\nno such colour")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "loop":
                # In native code, which holds the interpreter: no thread of Python's could end it.
                re.match(r"(a+)+$", "a" * 40 + "b")


class Broken:
    """Fail in the way that the options ask for."""

    def __init__(self, options: Mapping[str, object], device: object, *, name: str, seed: int) -> None:
        self.options = options
        if options["how"] == "no_model":
            raise ModelError("model 'x' is no folder")

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        match self.options["how"]:
            case "bug":
                raise ValueError("first line\nthe last line")
            case "loses":
                yield from list(batch)[1:]
            case "other":
                yield from ("not a sample" for _ in batch)  # type: ignore[misc]
            case "transient":
                path = Path(str(self.options["seen"]))
                if not path.exists():
                    path.touch()
                    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
                yield from batch


def always_first(images: Sequence[bytes]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """A black-box classifier: the first of two classes, always."""
    return np.tile([0.9, 0.1], (len(images), 1))
