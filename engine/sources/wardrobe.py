"""The wardrobe as a source: each composite, or photograph of a ground, is rendered when it is read."""

from collections.abc import Iterator
from functools import cached_property

from PIL import Image

from engine.errors import SourceError
from engine.runfile.data import GroundsSource, WardrobeSource
from engine.sources.decode import encode_jpeg, encode_png
from engine.sources.item import SourceItem
from engine.wardrobe.garments import CLASSES, SHIPPED, Garments, load_garments
from engine.wardrobe.scene import BACKGROUNDS, Scene, caption, make_scene, render, render_ground


class WardrobeImages:
    """Composites of one split of the garments; all composites of a garment share a split key."""

    notes = ()
    has_masks = True

    def __init__(self, config: WardrobeSource) -> None:
        self.config = config

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the ten kinds of garment."""
        return CLASSES

    def items(self) -> Iterator[SourceItem]:
        """Yield the composites with colour and background as attributes."""
        config = self.config
        if config.count < len(CLASSES):
            raise SourceError(f"count is {config.count}: the wardrobe has {len(CLASSES)} classes, each needs one")
        for index in range(config.count):
            scene = self._scene(index)
            yield SourceItem(
                key=scene.key,
                split_key=f"garment:{config.split}-{scene.garment}",
                label=scene.label,
                class_name=scene.class_name,
                locator=str(index),
                caption=caption(scene) if config.captions else "",
                attributes={"background": scene.background, "colour": scene.colour}
                | ({"thing": scene.thing} if config.things else {}),
            )

    def read(self, item: SourceItem) -> bytes:
        """Return the composite as a JPEG."""
        picture, _ = render(self._scene(int(item.locator)), self._garments)
        return encode_jpeg(Image.fromarray(picture))

    def mask(self, item: SourceItem) -> bytes:
        """Return the garment's mask as a PNG."""
        _, mask = render(self._scene(int(item.locator)), self._garments)
        return encode_png(Image.fromarray(mask))

    def _scene(self, index: int) -> Scene:
        config = self.config
        return make_scene(
            self._garments,
            config.split,
            index,
            correlation=config.correlation,
            has_thing=config.things,
            seed=config.seed,
        )

    @cached_property
    def _garments(self) -> Garments:
        if not SHIPPED.exists():
            raise SourceError(f"the wardrobe's garments are missing: {SHIPPED}; install counterforge again")
        return load_garments(self.config.split)


class GroundImages:
    """Photographs of the wardrobe's grounds, each another crop; the grounds take turns."""

    notes = ()

    def __init__(self, config: GroundsSource) -> None:
        self.config = config

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the grounds."""
        return BACKGROUNDS

    def items(self) -> Iterator[SourceItem]:
        """Yield the photographs."""
        if self.config.count < len(BACKGROUNDS):
            raise SourceError(f"count is {self.config.count}: there are {len(BACKGROUNDS)} grounds, each needs one")
        for index in range(self.config.count):
            label = index % len(BACKGROUNDS)
            key = f"ground-{index:06d}"
            yield SourceItem(
                key=key,
                split_key=key,
                label=label,
                class_name=BACKGROUNDS[label],
                locator=str(index),
                caption=f"a photo of {BACKGROUNDS[label]}",
            )

    def read(self, item: SourceItem) -> bytes:
        """Return the photograph as a JPEG."""
        return encode_jpeg(Image.fromarray(render_ground(item.class_name, int(item.locator))))
