"""Examine the models that read and write: the captioner and the perturber."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from actors.captioner.captioner import Captioner
from actors.perturber.perturber import Perturber
from actors.zoo.exam.scenes import CAPTION, CPU, Exam, captioned
from actors.zoo.recipes.backbone import ATTRIBUTES
from actors.zoo.recipes.edit_pairs import FIELDS
from engine.figures.figures import Figure, share
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.perturber import PerturberConfig
from engine.sample import Edit, Rejection, Sample
from engine.wardrobe.garments import CLASSES
from engine.wardrobe.scene import Scene, caption

# What each kind of edit may put in: the perturber's own words for it to the value of the scene.
VALUES = {
    kind: [value for value in ATTRIBUTES[FIELDS[kind]] if value != "plain"]
    for kind in ("background", "colour", "lighting")
}


def captioner_figures(exam: Exam, config: CaptionerConfig) -> Iterator[Figure]:
    """Yield how often the captioner's words are the truth, beside what the judge sees in the same pictures."""
    stage = Captioner(config, CPU, name="captioner", offline=True)
    texts = [item.caption if isinstance(item, Sample) else "" for item in stage(exam.samples)]
    found = [CAPTION.fullmatch(text) for text in texts]
    n, parts = len(texts), {"garment": ("class", 0.85), "colour": ("colour", 0.97), "background": ("background", 0.99)}
    for name, (part, target) in parts.items():
        true = [getattr(scene, FIELDS[name]) for scene in exam.scenes]
        right = sum(said is not None and said[part] == word for said, word in zip(found, true, strict=True))
        yield share(f"captioner.{name}", right, n, target)
    whole = sum(text == caption(scene) for text, scene in zip(texts, exam.scenes, strict=True))
    yield share("captioner.whole_caption", whole, n)
    yield share("captioner.in_form", sum(said is not None for said in found), n)
    for name, (part, _) in parts.items():
        yield share(f"judge.{name}", int(exam.sees[part].sum()), n)


def perturber_figures(exam: Exam, config: PerturberConfig) -> Iterator[Figure]:
    """Yield how often a first reply is an edit, is the edit asked for, and how evenly the values are spread.

    A reply that changes nothing is in form, but not the edit asked for. `after_retries` is what a run gets.
    """
    edits, reasons = _answers(exam, config, retries=0)
    exact = sum(is_exact(scene, edit) for scene, edit in edits)
    n, in_form = len(edits) + reasons.total(), len(edits) + reasons["edit_changes_nothing"]
    yield share("perturber.parses", in_form, n, 0.99)
    yield share("perturber.exact_edit", exact, in_form, 0.98)
    retried, lost = _answers(exam, config, retries=config.retries)
    kept = sum(is_exact(scene, edit) for scene, edit in retried)
    yield share("perturber.exact_edit_after_retries", kept, len(retried) + lost.total())
    named = sum(
        any(name in text.split() for name in CLASSES for text in (edit.before, edit.after)) for _, edit in edits
    )
    yield share("perturber.names_a_garment", named, len(edits), 0.0, better="lower")
    for kind in VALUES:
        yield from _spread(kind, Counter(value_of(edit) for _, edit in edits if edit.kind == kind))


def _answers(exam: Exam, config: PerturberConfig, retries: int) -> tuple[list[tuple[Scene, Edit]], Counter[str]]:
    """Return edits of one of each kind for every composite, and the reasons of those that could not be had."""
    config = config.model_copy(
        update={"edits": dict.fromkeys(VALUES, 1), "retries": retries, "severities": (1.0,), "placebo": False}
    )
    stage = Perturber(config, CPU, name="perturber", seed=0, offline=True)
    by_key = dict(zip((sample.key for sample in exam.samples), exam.scenes, strict=True))
    results = [item for item in stage(captioned(exam.samples, exam.scenes)) if item.key != item.source_key]
    edits = [
        (by_key[item.source_key], item.edit) for item in results if isinstance(item, Sample) and item.edit is not None
    ]
    return edits, Counter(item.reason for item in results if isinstance(item, Rejection))


def is_exact(scene: Scene, edit: Edit) -> bool:
    """Return whether an edit's caption is the scene's with the one attribute at another value, and says so."""
    field, value = FIELDS[edit.kind], value_of(edit)
    if value not in VALUES[edit.kind] or value == getattr(scene, field):
        return False
    changes: dict[str, Any] = {field: value}
    return edit.caption == caption(replace(scene, **changes))


def value_of(edit: Edit) -> str:
    """Return the value that an edit puts in: "dim light" is "dim"."""
    return edit.after.removesuffix(" light")


def _spread(kind: str, chosen: Counter[str]) -> Iterator[Figure]:
    counts, n = [chosen[value] for value in VALUES[kind]], chosen.total()
    num, covered, most = len(counts), sum(count > 0 for count in counts), max(counts) * len(counts) / max(n, 1)
    name, unit = f"perturber.{kind}", "x an even share"
    yield Figure(name=f"{name}.values", value=covered, target=num, better="higher", n=n, unit=f"of {num}")
    yield Figure(name=f"{name}.largest_share", value=most, target=2.0, better="lower", n=n, unit=unit)
