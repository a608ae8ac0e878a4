"""Planted weaknesses: a random attribute correlated with random classes, and the cells of a probe that show it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from engine.probe.weakness import WeaknessCell
from engine.runfile.perturber import REMOVAL
from engine.wardrobe.garments import CLASSES
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, Scene
from engine.wardrobe.things import THINGS

Attribute = Literal["background", "colour", "thing"]

# By attribute, as kinds of edit are called but for things, which are removed.
VALUES: Mapping[str, tuple[str, ...]] = {
    "background": BACKGROUNDS,
    "colour": tuple(COLOURS),
    "thing": THINGS,
}
MOST_CLASSES = 4
WEAKEST = 0.9


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A spurious correlation in training data: each class in `tied` has its own value of the attribute.

    An image of a tied class has the class's value with probability `strength`; an image of another class that has a
    tied value gets a free one with that probability.
    """

    attribute: Attribute
    tied: Mapping[int, str]
    strength: float

    @property
    def free(self) -> list[str]:
        """Return the values that no class is tied to."""
        return [value for value in VALUES[self.attribute] if value not in self.tied.values()]

    def apply(self, scenes: Iterable[Scene], seed: int) -> Iterator[Scene]:
        """Yield the scenes with the correlation."""
        rng = np.random.default_rng(seed)
        for scene in scenes:
            chance, other, value = rng.random() < self.strength, rng.choice(self.free), getattr(scene, self.attribute)
            if chance and (scene.label in self.tied or value in self.tied.values()):
                yield self._with(scene, self.tied.get(scene.label, other))
            else:
                yield scene

    def shows(self, cell: WeaknessCell) -> bool:
        """Return whether a cell's edits break the correlation: they remove a class's value or give it to another.

        A thing is only ever removed.
        """
        of_class = CLASSES.index(cell.class_name) if cell.class_name else None
        if self.attribute == "thing":
            removed = {label: f"no {thing}" for label, thing in self.tied.items()}
            return cell.kind == REMOVAL and of_class in removed and cell.after in (None, removed[of_class])
        if cell.kind != self.attribute:
            return False
        if cell.after in self.tied.values():
            return of_class is None or self.tied.get(of_class) != cell.after
        return of_class in self.tied

    def broken(self, scenes: Iterable[Scene], seed: int) -> Iterator[Scene]:
        """Yield each scene against the correlation: a tied class gets a free value, any other class a tied one."""
        rng = np.random.default_rng(seed)
        tied = list(self.tied.values())
        for scene in scenes:
            yield self._with(scene, rng.choice(self.free if scene.label in self.tied else tied))

    def _with(self, scene: Scene, value: str) -> Scene:
        changes: dict[str, Any] = {self.attribute: str(value)}
        return replace(scene, **changes)

    def __str__(self) -> str:
        pairs = ", ".join(f"{CLASSES[label]} = {value}" for label, value in self.tied.items())
        return f"{self.attribute}: {pairs} at {self.strength:.2f}"


def draw_plant(seed: int) -> Plant:
    """Return plant number `seed`."""
    rng = np.random.default_rng((7, seed))
    attribute: Attribute = "background" if rng.random() < 0.5 else "colour"
    count = int(rng.integers(1, MOST_CLASSES + 1))
    labels = rng.choice(len(CLASSES), count, replace=False)
    values = rng.choice(VALUES[attribute], count, replace=False)
    tied = {int(label): str(value) for label, value in zip(labels, values, strict=True)}
    return Plant(attribute=attribute, tied=tied, strength=float(rng.uniform(WEAKEST, 1)))
