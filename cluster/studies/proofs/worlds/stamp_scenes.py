"""Photographed objects of Debian's package tuxpaint-stamps-default on grounds, and a stage that edits them exactly.

Nothing of the package ships: pictures are made where a study runs. Its drawings are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.errors import SourceError
from engine.sample import PLACEBO_INSTRUCTION, Edit, Json, Rejection, Sample, content_seed
from engine.sources.decode import encode_jpeg
from engine.wardrobe.scene import BACKGROUNDS, TEXTURES, with_article

FOLDER = Path("/usr/share/tuxpaint/stamps")
SIZE = 64
# Stamps are kept at this edge in memory, a few times that of a picture.
KEPT_EDGE = 128
SIZES = (30, 56)
GROUNDS = BACKGROUNDS
# By class: its ground in biased pictures, and the folders of its stamps, searched in depth.
OWN_GROUND = {"mammal": "grass", "bird": "water", "food": "brick", "flower": "sand", "coin": "snow"}
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "mammal": ("animals/mammals",),
    "bird": ("animals/birds",),
    "food": ("food/fruit", "food/vegetables", "food/nuts"),
    "flower": ("plants/flowers",),
    "coin": ("symbols/money/us", "symbols/money/euro", "symbols/money/canadian", "symbols/money/japanese"),
}
CLASSES = tuple(FOLDERS)
# Folders of drawings and toys; then drawings and silhouettes in folders of photographs.
LEFT_OUT = {"cartoon", "toys", "plastic"}
DRAWN = {"hedgehog", "echidna", "whale"}
# Every third stamp of a class is in no training data.
HELD_OUT = 3
KIND = "ground"
NUM_EDITS = 3


@dataclass(frozen=True, kw_only=True)
class StampScene:
    """The ground truth of one picture: a stamp, its longer edge, centre and side, and a crop of a ground's texture.

    `place` and `crop` (left, top, edge) are shares of the free room.
    """

    key: str
    stamp: str
    class_name: str
    ground: str
    size: int
    place: tuple[float, float]
    is_mirrored: bool
    crop: tuple[float, float, float]


@cache
def stamps_of(class_name: str, *, is_held_out: bool) -> tuple[str, ...]:
    """Return the paths of a class's stamps, relative to FOLDER; raise SourceError where the package is not there."""
    if not FOLDER.is_dir():
        raise SourceError(f"{FOLDER} is missing: install Debian's package, `apt install tuxpaint-stamps-default`")
    found = [
        path.relative_to(FOLDER)
        for folder in FOLDERS[class_name]
        for path in sorted((FOLDER / folder).rglob("*.png"))
        if not LEFT_OUT.intersection(path.parts) and path.stem not in DRAWN
        # A stamp's second picture, shown where it is mirrored or turned over.
        if not path.stem.endswith(("_mirror", "_flip", "_mirror_flip"))
    ]
    return tuple(str(path) for place, path in enumerate(found) if (place % HELD_OUT == 0) == is_held_out)


def make_stamp_scenes(name: str, count: int, correlation: float | None, seed: int) -> list[StampScene]:
    """Return scenes of the stamps that are held out (name "heldout") or of the others, a function of the arguments.

    Classes alternate. With a correlation each class stands on its own ground that often, else on another one; without,
    grounds alternate too.
    """
    return [make_stamp_scene(name, index, correlation, seed) for index in range(count)]


def make_stamp_scene(name: str, index: int, correlation: float | None, seed: int) -> StampScene:
    """Return scene number `index`."""
    rng = np.random.default_rng(content_seed(seed, f"stamps/{name}/{index}"))
    turn, label = divmod(index, len(CLASSES))
    class_name = CLASSES[label]
    own, others = OWN_GROUND[class_name], [ground for ground in GROUNDS if ground != OWN_GROUND[class_name]]
    drawn = own if correlation is not None and rng.random() < correlation else str(rng.choice(others))
    return StampScene(
        key=f"{name}-{index:05d}",
        stamp=str(rng.choice(stamps_of(class_name, is_held_out=name == "heldout"))),
        class_name=class_name,
        ground=GROUNDS[turn % len(GROUNDS)] if correlation is None else drawn,
        size=int(rng.integers(*SIZES)),
        place=(rng.random(), rng.random()),
        is_mirrored=bool(rng.random() < 0.5),
        crop=(rng.random(), rng.random(), rng.random()),
    )


def caption(scene: StampScene) -> str:
    """Return the true caption."""
    return f"a photo of {with_article(scene.class_name)} on {scene.ground}"


def render(scene: StampScene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the picture, (64, 64, 3) uint8 RGB, and the stamp's mask, (64, 64) uint8, 255 where it is opaque."""
    stamp = ImageOps.contain(_stamp(scene.stamp), (scene.size, scene.size), Image.Resampling.BOX)
    stamp = ImageOps.mirror(stamp) if scene.is_mirrored else stamp
    left, top = (int(share * (SIZE - edge + 1)) for share, edge in zip(scene.place, stamp.size, strict=True))
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(stamp.getchannel("A"), (left, top))
    picture = _ground(scene.ground, scene.crop)
    picture.paste(stamp, (left, top), stamp)
    return np.asarray(picture), np.asarray(mask)


@cache
def _stamp(path: str) -> Image.Image:
    with Image.open(FOLDER / path) as image:
        stamp = image.convert("RGBA")
    box = stamp.getchannel("A").point(lambda alpha: 255 * (alpha >= SIZE)).getbbox()
    return ImageOps.contain(stamp.crop(box), (KEPT_EDGE, KEPT_EDGE))


def _ground(name: str, crop: tuple[float, float, float]) -> Image.Image:
    """Return a crop of the texture with an edge of 96 to 200 pixels, scaled to the picture."""
    texture = _texture(name)
    edge = 96 + int(crop[2] * 104)
    left, top = (int(share * (whole - edge)) for share, whole in zip(crop, texture.size, strict=False))
    box = (left, top, left + edge, top + edge)
    return texture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)


@cache
def _texture(name: str) -> Image.Image:
    with Image.open(TEXTURES / f"{name}.jpg") as image:
        return image.convert("RGB")


class Composer:
    """Edit the ground of each source exactly: captioner, perturber and editor in one stage of kind plugin.

    Options: correlation and seed of the scenes. A placebo has the same ground, an edit another one; both have another
    crop of its texture, and the very same stamp, place and size.
    """

    def __init__(self, options: Mapping[str, Json], device: object, *, name: str, seed: int) -> None:
        correlation = options["correlation"]
        self.correlation = None if correlation is None else float(str(correlation))
        self.scene_seed, self.seed = int(str(options["seed"])), seed

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each source with its caption, a placebo and NUM_EDITS edits."""
        for source in batch:
            name, _, index = Path(str(source.provenance["source"])).stem.rpartition("-")
            scene = make_stamp_scene(name, int(index), self.correlation, self.scene_seed)
            rng = np.random.default_rng(source.seed(self.seed))
            yield replace(source, caption=caption(scene))
            yield self._edited(source, scene, "_placebo", scene.ground, rng)
            others = [ground for ground in GROUNDS if ground != scene.ground]
            for number, ground in enumerate(rng.choice(others, NUM_EDITS, replace=False)):
                yield self._edited(source, scene, f"_cf{number:02d}", str(ground), rng)

    def _edited(self, source: Sample, scene: StampScene, suffix: str, ground: str, rng: np.random.Generator) -> Sample:
        after = replace(scene, ground=ground, crop=(rng.random(), rng.random(), rng.random()))
        is_placebo = ground == scene.ground
        edit = Edit(
            kind="placebo" if is_placebo else KIND,
            before=scene.ground,
            after=ground,
            instruction=PLACEBO_INSTRUCTION if is_placebo else f"put it on {ground}",
            caption=caption(after),
        )
        return replace(
            source,
            key=source.key + suffix,
            role="placebo" if is_placebo else "counterfactual",
            image=encode_jpeg(Image.fromarray(render(after)[0])),
            caption=edit.caption,
            edit=edit,
        )
