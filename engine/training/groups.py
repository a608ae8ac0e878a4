"""Groups of training images: those of one class with the same value of each attribute."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from engine.sample import by_turn
from engine.training.contents import EditCell, ShardContents

# The same edit follows itself in the stream, and the shuffle holds 2,048.
MOST_DRAWS = 20

# Class name, a value of each attribute (empty where the image has none), and an edit that is of none of them.
Group = tuple[str, ...]


class Groups:
    """The groups of a run's training images, numbered alike in all workers.

    Their attributes are those of `report.group_by`, or where it is empty all that the images have. Where the kind of an
    edit is one of them, the edit is in the group with its new value. Else it is in the group of its source, but where
    `report.group_by` is empty in a group of its own beside it. Of an edit of several turns each turn counts.
    """

    def __init__(self, group_by: Sequence[str], known: Iterable[str] = ()) -> None:
        self.attributes = tuple(group_by) or tuple(sorted(known))
        self._is_open = not group_by
        self._numbers: dict[Group, int] = {}
        self._of_class: dict[str, set[Group]] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def of_real(self, class_name: str, attributes: Mapping[str, str]) -> Group:
        """Return the group of a real image."""
        return (class_name, *(attributes.get(name, "") for name in self.attributes))

    def of_edit(self, source: Group, kind: str, after: str) -> Group:
        """Return the group of an edit of an image of group `source`."""
        for each, value in by_turn(kind, after):
            source = self._changed(source, each, value)
        return source

    def _changed(self, source: Group, kind: str, after: str) -> Group:
        if kind not in self.attributes:
            return (*source, f"{kind}: {after}") if self._is_open else source
        place = 1 + self.attributes.index(kind)
        return (*source[:place], after, *source[place + 1 :])

    def number(self, group: Group) -> int:
        """Return the number of a group that was added."""
        return self._numbers[group]

    def add_real(self, groups: Iterable[Group]) -> None:
        """Number groups of real images; all of a training come before the edits."""
        for group in sorted(set(groups)):
            self._numbers.setdefault(group, len(self._numbers))
            self._of_class.setdefault(group[0], set()).add(group)

    def add_edits(self, cells: Iterable[EditCell]) -> None:
        """Number all groups that edits of these cells can be in; new ones come last."""
        found = {
            self.of_edit(source, kind, after) for name, kind, after in cells for source in self._of_class.get(name, ())
        }
        for group in sorted(found):
            self._numbers.setdefault(group, len(self._numbers))


def balancing(counts: Sequence[int]) -> list[int]:
    """Return how often an image of each group is drawn, so that all groups come about equally often.

    `counts` are the images of each group; a group without any gets 0.
    """
    most = max(counts, default=0)
    return [round(most / count) if count else 0 for count in counts]


def balanced_draws(draws: Mapping[EditCell, int], contents: Iterable[ShardContents]) -> dict[EditCell, int]:
    """Return how often a round has an edit of each cell so that all cells come about equally often, times `draws`."""
    counts: Counter[EditCell] = Counter()
    for shard in contents:
        counts.update(shard.cells)
    times = dict(zip(counts, balancing(list(counts.values())), strict=True))
    return {cell: count * min(MOST_DRAWS, times.get(cell, 0)) for cell, count in draws.items()}
