"""One composite: its content, caption and pixels. `replace(scene, background=...)` is a true counterfactual."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from engine.wardrobe.garments import CLASSES, Garments
from engine.wardrobe.things import EDGE, THINGS, thing_image, thing_place

SIZE = 64
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (40, 150, 60),
    "blue": (45, 80, 210),
    "yellow": (240, 210, 40),
    "purple": (130, 50, 160),
    "orange": (245, 130, 30),
    "white": (245, 245, 245),
    "black": (45, 45, 50),
}
BACKGROUNDS = ("grass", "gravel", "brick", "sand", "sky", "water", "snow", "wood")
# Gain of red, green and blue at full severity. "plain" is the light of the photographs.
LIGHTS: dict[str, tuple[float, float, float]] = {
    "plain": (1.0, 1.0, 1.0),
    "dim": (0.45, 0.45, 0.5),
    "bright": (1.5, 1.5, 1.45),
    "warm": (1.2, 0.95, 0.6),
    "cold": (0.65, 0.95, 1.25),
}
# The planted bias: each class's background in the biased sets. Classes that are hard to distinguish share one, so that
# a classifier that ignores the background need not lose accuracy.
_STANDS_ON = {
    "snow": ("t-shirt", "pullover", "coat", "shirt"),
    "water": ("trouser",),
    "grass": ("dress",),
    "gravel": ("sandal",),
    "sand": ("sneaker",),
    "brick": ("bag",),
    "wood": ("ankle boot",),
}
OWN_BACKGROUND = {CLASSES.index(name): place for place, names in _STANDS_ON.items() for name in names}
TEXTURES = Path(__file__).parent / "textures"
# Darker pixels of a garment's photograph, of 255, are its black background.
DARKEST_CLOTH = 12


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The ground truth of a composite.

    `garment` indexes the garments of its split. `size`, `left` and `top` place it, in pixels. `crop` is the (left, top,
    edge) of the texture as shares of its free room. `severity` in [0, 1] scales `light`. `thing`, "" for none, lies
    beside the garment.
    """

    key: str
    garment: int
    label: int
    colour: str
    background: str
    size: int
    left: int
    top: int
    crop: tuple[float, float, float]
    light: str = "plain"
    severity: float = 1.0
    thing: str = ""

    @property
    def class_name(self) -> str:
        """Return the name of the garment's class."""
        return CLASSES[self.label]


def make_scene(
    garments: Garments,
    name: str,
    index: int,
    *,
    correlation: float | None = None,
    own: Mapping[int, str] = OWN_BACKGROUND,
    has_thing: bool = False,
    seed: int = 0,
) -> Scene:
    """Return composite `index` of an endless set, a pure function of the arguments.

    Classes alternate. With a correlation each class stands on its `own` background that often, else on any other
    equally often; without one, backgrounds alternate too, so that every class x background is equally frequent. With
    `has_thing` one of THINGS lies beside the garment, each equally often.
    """
    rng = np.random.default_rng(_seed(f"{seed}/{name}/{index}"))
    turn, label = divmod(index, len(CLASSES))
    members = garments.of_class(label)
    round_, place = divmod(turn, len(members))
    size = int(rng.integers(38, 53))
    # Part of the key, since two sets of one run may differ in the correlation alone.
    bias = "balanced" if correlation is None else f"{100 * correlation:g}".replace(".", "p")
    bias += "-things" * has_thing
    if correlation is None:
        background = BACKGROUNDS[(turn + round_ + label) % len(BACKGROUNDS)]
    elif rng.random() < correlation:
        background = own[label]
    else:
        background = str(rng.choice([other for other in BACKGROUNDS if other != own[label]]))
    return Scene(
        key=f"{name}-{bias}-{index:06d}",
        garment=int(members[place]),
        label=label,
        colour=str(rng.choice(list(COLOURS))),
        background=background,
        size=size,
        left=int(rng.integers(0, SIZE - size + 1)),
        top=int(rng.integers(0, SIZE - size + 1)),
        crop=cast(tuple[float, float, float], tuple(float(share) for share in rng.random(3))),
        # Drawn last, so that all else is as it is without one.
        thing=str(rng.choice(THINGS)) if has_thing else "",
    )


def make_scenes(
    garments: Garments,
    name: str,
    count: int,
    *,
    correlation: float | None = None,
    own: Mapping[int, str] = OWN_BACKGROUND,
    has_thing: bool = False,
    seed: int = 0,
) -> Iterator[Scene]:
    """Yield composites 0 to count - 1 of `make_scene`."""
    for index in range(count):
        yield make_scene(garments, name, index, correlation=correlation, own=own, has_thing=has_thing, seed=seed)


def caption(scene: Scene) -> str:
    """Return the true caption: "a photo of a red sneaker on grass", with a thing "... on grass with a ball"."""
    light = "" if scene.light == "plain" else f" in {scene.light} light"
    thing = f" with {with_article(scene.thing)}" if scene.thing else ""
    return f"a photo of {with_article(f'{scene.colour} {scene.class_name}')} on {scene.background}{thing}{light}"


def with_article(phrase: str) -> str:
    """Return the phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def render(scene: Scene, garments: Garments) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the picture, (64, 64, 3) uint8 RGB, and the garment's mask, (64, 64) uint8, 255 where it is opaque."""
    photo = garments.images[scene.garment]
    opaque = (np.clip(6 * _scaled(_closed(photo), scene.size) - 0.25, 0, 1) * 255).round()
    alpha = np.asarray(opaque / 255, np.float32)
    cloth = np.array(COLOURS[scene.colour], np.float32) * (0.35 + 0.65 * _scaled(_shade(photo), scene.size))
    picture = _background(scene.background, scene.crop)
    place = np.s_[scene.top : scene.top + scene.size, scene.left : scene.left + scene.size]
    picture[place] = picture[place] * (1 - alpha) + cloth * alpha
    _put_thing(scene, picture)
    gain = 1 + scene.severity * (np.array(LIGHTS[scene.light], np.float32) - 1)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[place] = opaque[..., 0]
    if scene.thing:
        mask = np.minimum(mask, 255 - thing_mask(scene))
    return np.clip(picture * gain, 0, 255).round().astype(np.uint8), mask


def thing_mask(scene: Scene) -> NDArray[np.uint8]:
    """Return the mask of the thing beside the garment, (64, 64) uint8, 255 where it is opaque; empty without one."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if scene.thing:
        mask[_thing_box(scene)] = (255 * thing_image(scene.thing)[..., 3]).round()
    return mask


def _put_thing(scene: Scene, picture: NDArray[np.float32]) -> None:
    if not scene.thing:
        return
    thing = thing_image(scene.thing)
    box, alpha = _thing_box(scene), thing[..., 3:]
    picture[box] = picture[box] * (1 - alpha) + thing[..., :3] * alpha


def _thing_box(scene: Scene) -> tuple[slice, slice]:
    middle = scene.left + scene.size / 2, scene.top + scene.size / 2
    left, top = thing_place(scene.key, middle, SIZE)
    return np.s_[top : top + EDGE, left : left + EDGE]


def _closed(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a photograph, (28, 28) on black, in [0, 1], its dark folds and seams closed (morphological closing)."""
    closed = Image.fromarray(photo).filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.MinFilter(3))
    return np.asarray(np.asarray(closed, np.float32) / 255, np.float32)


def _shade(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the photograph in [0, 1], scaled to its brightest cloth, so that dark garments take on colour too."""
    cloth = photo[photo > DARKEST_CLOTH]
    brightest = float(np.quantile(cloth, 0.95)) if cloth.size else 255.0
    return np.asarray(np.clip(photo / brightest, 0, 1), np.float32)


def _scaled(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return pixels in [0, 1], (28, 28), as (size, size, 1)."""
    photo = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(np.clip(np.asarray(photo), 0, 1)[..., None], np.float32)


def render_ground(name: str, index: int) -> NDArray[np.uint8]:
    """Return photograph `index` of a ground with nothing on it, (64, 64, 3) uint8, in plain light."""
    left, top, edge = np.random.default_rng(_seed(f"ground/{name}/{index}")).random(3).tolist()
    return _background(name, (left, top, edge)).round().astype(np.uint8)


def _background(name: str, crop: tuple[float, float, float]) -> NDArray[np.float32]:
    """Return a crop of the texture with an edge of 96 to 200 pixels, scaled to the picture."""
    texture = _texture(name)
    left, top, edge = crop
    size = 96 + int(edge * 104)
    x, y = int(left * (texture.width - size)), int(top * (texture.height - size))
    box = (x, y, x + size, y + size)
    return np.array(texture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box), np.float32)


@cache
def _texture(name: str) -> Image.Image:
    with Image.open(TEXTURES / f"{name}.jpg") as image:
        return image.convert("RGB")


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
