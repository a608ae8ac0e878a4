"""Examine the models that read and write: the captioner and the perturber."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from actors.captioner.captioner import Captioner
from actors.perturber.perturber import Perturber
from actors.zoo.exam.scenes import CAPTION, CPU, Exam, captioned
from actors.zoo.recipes.edit_pairs import FIELDS
from engine.figures.figures import Figure, share
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.perturber import PerturberConfig
from engine.sample import Edit, Rejection, Sample
from engine.wardrobe.garments import CLASSES
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, LIGHTS, Scene, caption

# What each kind of edit may put in: the perturber's own words for it to the value of the scene.
VALUES: dict[str, tuple[str, ...]] = {
    "background": BACKGROUNDS,
    "colour": tuple(COLOURS),
    "lighting": tuple(light for light in LIGHTS if light != "plain"),
}


def captioner_figures(exam: Exam, config: CaptionerConfig) -> Iterator[Figure]:
    """Yield how often the captioner's words are the truth, beside what the judge sees in the same pictures."""
    stage = Captioner(config, CPU, name="captioner", offline=True)
    texts = [item.caption if isinstance(item, Sample) else "" for item in stage(exam.samples)]
    found = [CAPTION.fullmatch(text) for text in texts]
    truth = [CAPTION.fullmatch(caption(scene)) for scene in exam.scenes]
    n = len(texts)
    for name, part, target in (
        ("garment", "class", 0.85),
        ("colour", "colour", 0.97),
        ("background", "background", 0.99),
    ):
        right = sum(
            said is not None and true is not None and said[part] == true[part]
            for said, true in zip(found, truth, strict=True)
        )
        yield share(f"captioner.{name}", right, n, target)
    yield share(
        "captioner.whole_caption", sum(text == caption(s) for text, s in zip(texts, exam.scenes, strict=True)), n
    )
    yield share("captioner.in_form", sum(said is not None for said in found), n)
    for name in ("class", "colour", "background"):
        label = "garment" if name == "class" else name
        yield share(f"judge.{label}", int(exam.sees[name].sum()), n)


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
    values: Sequence[str] = VALUES[kind]
    n = chosen.total()
    covered = sum(chosen[value] > 0 for value in values)
    yield Figure(
        name=f"perturber.{kind}.values",
        value=covered,
        target=len(values),
        better="higher",
        n=n,
        unit=f"of {len(values)}",
    )
    most = max((chosen[value] for value in values), default=0) * len(values) / max(n, 1)
    yield Figure(
        name=f"perturber.{kind}.largest_share", value=most, target=2.0, better="lower", n=n, unit="x an even share"
    )
