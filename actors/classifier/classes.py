"""The classes of a checkpoint, as its config.json names its outputs, and those of a run, matched by name."""

import re
from collections.abc import Mapping, Sequence

from engine.errors import ModelError
from engine.names import folded, synonyms
from engine.sample import Json
from engine.wording import name_some

# transformers numbers the outputs of a model without names so.
UNNAMED = re.compile(r"LABEL_\d+")
REMEDY = 'write id2label: {"0": "cat", "1": "dog"}, a name for each output'
# timm knows the names of ImageNet's classes, from this number of them on.
KNOWN_TO_TIMM = 1000
CLASSES_SHOWN = 20


def output_names(config: Mapping[str, Json], model: str) -> list[str] | None:
    """Return the name of each output in a model's config.json, LABEL_0, ... where it has none; None where timm does.

    Raises ModelError for a head that does not choose one of several classes, and for names that do not say which
    output they belong to.
    """
    names = _labels(config, model)
    kind = config.get("problem_type")
    if kind == "regression" or (kind == "multi_label_classification" and len(names) != 1):
        raise ModelError(
            f"model {model!r} is trained for {str(kind).replace('_', ' ')} (problem_type of its config.json): its "
            "outputs are no probabilities of one class among several; name a classifier, or wrap it in a function "
            "that answers with such, as probe.callable"
        )
    is_timm = "architecture" in config and "label_names" not in config and "id2label" not in config
    return None if is_timm and len(names) >= KNOWN_TO_TIMM else names


def match_classes(names: Sequence[str], classes: Sequence[str], model: str) -> list[int]:
    """Return for each class of the run its index among a model's outputs; of a sigmoid, among [0, its logit].

    Names match without regard to case, spaces, hyphens and underscores, and each of several that a comma separates
    counts ("tench, Tinca tinca"). A model that names nothing (LABEL_0, ...) is taken by index where the counts agree.
    Raises ModelError naming the classes that are missing, or that are one to the model.
    """
    if len(names) == 1:
        names = _sigmoid_names(names[0], classes, model)
    if is_unnamed(names):
        if len(names) != len(classes):
            raise ModelError(
                f"model {model!r} has {len(names)} classes without names, the run has {len(classes)}: "
                "set id2label in the model's config.json"
            )
        return list(range(len(classes)))
    known: dict[str, set[int]] = {}
    parts: dict[str, set[int]] = {}
    for index, name in enumerate(names):
        known.setdefault(folded(name), set()).add(index)
        for part in synonyms(name):
            parts.setdefault(folded(part), set()).add(index)
    found = {name: known.get(folded(name)) or parts.get(folded(name), set()) for name in classes}
    if missing := [name for name, indexes in found.items() if not indexes]:
        raise ModelError(
            f"model {model!r} does not know {name_some(missing)}, it knows {name_some(names)}: "
            "name the run's classes as the model does, or set id2label in its config.json"
        )
    if unclear := [name for name, indexes in found.items() if len(indexes) > 1]:
        raise ModelError(
            f"model {model!r} has more than one class of the name {name_some(unclear)}: set id2label apart"
        )
    columns = [min(found[name]) for name in classes]
    for column in columns:
        if len(same := [name for name, index in zip(classes, columns, strict=True) if index == column]) > 1:
            raise ModelError(
                f"the run's classes {name_some(same)} are one to model {model!r}, {names[column]!r}: make them one "
                "class of the run, or name a model that tells them apart"
            )
    return columns


def is_unnamed(names: Sequence[str]) -> bool:
    """Return whether a model names none of its outputs."""
    return all(UNNAMED.fullmatch(name) for name in names)


def order_remarks(names: Sequence[str], classes: Sequence[str], model: str) -> list[str]:
    """Return a line where the order of the outputs, not a name, says which class each of them is."""
    if len(names) == 1:
        positive = classes[match_classes(names, classes, model).index(1)]
        why = "the second class, as id2label names none" if is_unnamed(names) else "as its id2label says"
        return [f"model {model!r} has one output, a sigmoid: it is taken as the probability of {positive!r}, {why}"]
    if is_unnamed(names):
        return [
            f"model {model!r} names none of its classes: {taken_in_order(classes)}; set id2label in its config.json"
        ]
    return []


def taken_in_order(classes: Sequence[str]) -> str:
    """Return in words which class each output is taken for, where they come in the order of the run's classes."""
    shown = ", ".join(f"{index} as {name!r}" for index, name in enumerate(classes[:CLASSES_SHOWN]))
    more = f" and {len(classes) - CLASSES_SHOWN} more" if len(classes) > CLASSES_SHOWN else ""
    return f"its outputs are taken in the order of the run's, {shown}{more}"


def _labels(config: Mapping[str, Json], model: str) -> list[str]:
    given = config.get("num_labels", config.get("num_classes"))
    count = given if isinstance(given, int) else 2
    if isinstance(listed := config.get("label_names"), list) and "id2label" not in config:
        config = {"id2label": {str(index): name for index, name in enumerate(listed)}}
    labels = config.get(
        "id2label", {str(index): f"LABEL_{index}" for index in range(count if isinstance(count, int) else 2)}
    )
    what = f"model {model!r}: id2label of its config.json"
    if not isinstance(labels, dict) or not labels:
        seen = "null" if labels is None else f"a {type(labels).__name__}" if labels else "empty"
        raise ModelError(f"{what} is {seen}: {REMEDY}")
    if wrong := [value for value in labels.values() if not isinstance(value, str)]:
        raise ModelError(f"{what} has names that are no text, such as {wrong[0]!r}: {REMEDY}")
    keys = sorted(labels, key=lambda key: (len(key), key))
    if keys != [str(index) for index in range(len(labels))]:
        raise ModelError(
            f"{what} numbers {len(labels)} outputs {name_some(keys)}, wanted '0' to '{len(labels) - 1}': the first "
            "output is 0, and each needs a name"
        )
    return [str(labels[key]) for key in keys]


def _sigmoid_names(name: str, classes: Sequence[str], model: str) -> list[str]:
    """Return the names of what a single output is not and is; the second class of the run where it has no name."""
    if len(classes) != 2:
        raise ModelError(
            f"model {model!r} has one output, a sigmoid, which tells two classes apart; the run has {len(classes)}: "
            "name a model with an output for each"
        )
    if UNNAMED.fullmatch(name):
        return list(classes)
    known = {folded(part) for part in synonyms(name)}
    matches = [index for index, each in enumerate(classes) if folded(each) in known]
    if len(matches) != 1:
        raise ModelError(
            f"model {model!r} has one output, {name!r}, which is {'both' if matches else 'neither'} of "
            f"{name_some(classes)}: name in id2label the class whose probability it is"
        )
    return [classes[1 - matches[0]], name]
