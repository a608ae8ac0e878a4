"""Planted weaknesses: a random attribute correlated with random classes, and the cells of a probe that show it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from engine.probe.weakness import WeaknessCell
from engine.wardrobe.garments import CLASSES
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, Scene

Attribute = Literal["background", "colour"]

VALUES: Mapping[Attribute, tuple[str, ...]] = {"background": BACKGROUNDS, "colour": tuple(COLOURS)}
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

    def apply(self, scenes: Iterable[Scene], seed: int) -> Iterator[Scene]:
        """Yield the scenes with the correlation."""
        rng = np.random.default_rng(seed)
        free = [value for value in VALUES[self.attribute] if value not in self.tied.values()]
        for scene in scenes:
            chance, other = rng.random() < self.strength, str(rng.choice(free))
            if chance and scene.label in self.tied:
                yield with_value(scene, self.attribute, self.tied[scene.label])
            elif chance and getattr(scene, self.attribute) in self.tied.values():
                yield with_value(scene, self.attribute, other)
            else:
                yield scene

    def shows(self, cell: WeaknessCell) -> bool:
        """Return whether a cell's edits break the correlation: they remove a class's value or give it to another."""
        if cell.kind != self.attribute:
            return False
        of_class = CLASSES.index(cell.class_name) if cell.class_name else None
        if cell.after in self.tied.values():
            return of_class is None or self.tied.get(of_class) != cell.after
        return of_class in self.tied

    def broken(self, scenes: Iterable[Scene], seed: int) -> Iterator[Scene]:
        """Yield each scene against the correlation: a tied class gets a free value, any other class a tied one."""
        rng = np.random.default_rng(seed)
        tied = list(self.tied.values())
        free = [value for value in VALUES[self.attribute] if value not in tied]
        for scene in scenes:
            value = str(rng.choice(free if scene.label in self.tied else tied))
            yield with_value(scene, self.attribute, value)

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


def with_value(scene: Scene, attribute: Attribute, value: str) -> Scene:
    """Return the scene with another background or colour."""
    return replace(scene, background=value) if attribute == "background" else replace(scene, colour=value)
