"""Match the classes of a run with those of a model, by name."""

import re
from collections.abc import Mapping, Sequence

from engine.errors import ModelError

NAMES_SHOWN = 5


def match_classes(names: Mapping[int, str], classes: Sequence[str], model: str) -> list[int]:
    """Return for each class of the run its index in the model.

    Names match without regard to case, spaces, hyphens and underscores, and each of several that a comma separates
    counts ("tench, Tinca tinca"). A model that names nothing (LABEL_0, ...) is taken by index where the counts agree.
    Raises ModelError naming the classes that are missing.
    """
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names.values()):
        if len(names) != len(classes):
            raise ModelError(
                f"model {model!r} has {len(names)} classes without names, the run has {len(classes)}: "
                "set id2label in the model's config.json"
            )
        return list(range(len(classes)))
    known: dict[str, set[int]] = {}
    synonyms: dict[str, set[int]] = {}
    for index, name in names.items():
        known.setdefault(_plain(name), set()).add(index)
        for part in name.split(","):
            synonyms.setdefault(_plain(part), set()).add(index)
    found = {name: known.get(_plain(name)) or synonyms.get(_plain(name), set()) for name in classes}
    if missing := [name for name, indexes in found.items() if not indexes]:
        raise ModelError(
            f"model {model!r} does not know {_some(missing)}, it knows {_some(list(names.values()))}: "
            "name the run's classes as the model does, or set id2label in its config.json"
        )
    if unclear := [name for name, indexes in found.items() if len(indexes) > 1]:
        raise ModelError(f"model {model!r} has more than one class of the name {_some(unclear)}: set id2label apart")
    return [min(found[name]) for name in classes]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
