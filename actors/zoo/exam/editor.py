"""Examine the editor: it should make the change of the instruction and keep everything else."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from actors.editor.editor import Editor
from actors.images.codec import decode_rgb
from actors.zoo.exam.scenes import CPU, Bools, Exam, bootstrapped, captioned, kept, kernel_figure, picture
from actors.zoo.recipes.backbone import ATTRIBUTES
from actors.zoo.recipes.edit_pairs import FIELDS
from actors.zoo.recipes.training.language import edit_instructions
from engine.errors import RunError
from engine.figures.figures import Figure, share
from engine.runfile.editor import EditorConfig
from engine.sample import Edit, EditKind, ImageBytes, Sample
from engine.wardrobe.garments import CLASSES, load_garments
from engine.wardrobe.scene import Scene, caption

# A run has no edits that replace the garment: its `object` is another thing in the picture, never the main object.
ExamKind: TypeAlias = EditKind | Literal["garment"]
SEVERITIES = (0.25, 0.5, 0.75, 1.0)
CURVE_POINTS: dict[str, dict[str, float | str]] = {
    **{f"steps_{steps}": {"num_inference_steps": steps} for steps in (2, 5, 8, 15, 30)},
    **{f"ddim_{steps}": {"num_inference_steps": steps, "scheduler": "DDIMScheduler"} for steps in (5, 30)},
    **{f"guidance_{scale:g}": {"guidance_scale": scale} for scale in (1.0, 2.0)},
}
SHEET_ROWS = 100
# The judge's stage whose features are compared: the last tells things apart, the first how rough a ground is.
TEXTURE = "realism.texture"
REALISM = {"realism": -1, TEXTURE: 0}
# Verdicts that change are rare: 3 % of a thousand pictures is known to a point only, of every held-out garment to half.
PLACEBO_TIMES = 4
# The attribute that each kind changes, and the targets by attribute: shares of the judge's ceiling for the class,
# shares of all edits for the others.
ATTRIBUTE_OF = {**FIELDS, "garment": "class"}
REQUIRED: dict[ExamKind, dict[str, float]] = {
    "background": {"background": 0.95, "class": 0.95, "colour": 0.90},
    "colour": {"colour": 0.95, "class": 0.95, "background": 0.90},
    "garment": {"class": 0.95, "colour": 0.90, "background": 0.90},
    "lighting": {},
}
CURVE_KINDS: tuple[ExamKind, ...] = ("background", "colour", "garment")


@dataclass(frozen=True, kw_only=True)
class Edited:
    """Edits of one kind: what each picture should show now, and the JPEG that the editor made of it."""

    scenes: list[Scene]
    images: list[ImageBytes]


class EditorExam:
    """Make every edit of an examination through the stage that a run uses."""

    def __init__(self, exam: Exam, config: EditorConfig) -> None:
        self.exam, self.config = exam, config
        self.stage = Editor(config, CPU, name="editor", seed=0, offline=True)
        self.placebos = self._edited("placebo", exam.scenes)

    @cached_property
    def edits(self) -> dict[ExamKind, Edited]:
        """Return an edit of each kind of every picture, at the run file's settings."""
        return {kind: self._edited(kind, targets(self.exam.scenes, kind)) for kind in REQUIRED}

    def figures(self) -> Iterator[Figure]:
        """Yield the figures of each kind of edit at the run file's settings."""
        exam = self.exam
        for kind, edited in self.edits.items():
            yield from self._right_figures(f"editor.{kind}", kind, edited, REQUIRED[kind])
            if kind != "garment":
                yield from self._distance_figures(kind, edited.images, exam.masks)
                true = [picture(scene) for scene in edited.scenes]
                yield from self._distance_figures(f"{kind}.true", true, exam.masks)
        many = Exam(exam.judge, PLACEBO_TIMES * exam.num_scenes)
        placebos = self._edited("placebo", many.scenes, exam=many).images
        changed = many.found(placebos)["class"] != many.found([sample.image for sample in many.samples])["class"]
        yield share("editor.placebo.garment_verdict_changes", int(changed.sum()), len(changed), 0.03, better="lower")
        yield from self._distance_figures("placebo", self.placebos.images, exam.masks)
        yield from self._realism_figures()

    def severity_figures(self) -> Iterator[Figure]:
        """Yield how often the next severity moves further from the source, over three steps of each edit."""
        exam = self.exam
        count = min(len(exam.scenes), -(-1000 // (len(SEVERITIES) - 1)))
        sources = [sample.image for sample in exam.samples[:count]]
        for kind in ("background", "lighting"):
            goals = targets(exam.scenes[:count], kind)
            moved = []
            for severity in SEVERITIES:
                images = self._edited(kind, goals, severity=severity).images
                moved.append(exam.distance(sources, images).mean((1, 2)))
            steps: Bools = np.diff(np.stack(moved), axis=0) > 0
            yield share(f"editor.severity.{kind}.monotone_steps", int(steps.sum()), steps.size, 0.8)
            for severity, distance in zip(SEVERITIES, moved, strict=True):
                yield mean_figure(f"editor.severity.{kind}.distance_at_{severity:g}", distance)

    def curve_figures(self) -> Iterator[Figure]:
        """Yield the shares of right edits by number of steps (UniPC and DDIM) and by guidance scale."""
        for name, settings in CURVE_POINTS.items():
            yield from self._curve_point(name, settings)

    def sheet(self) -> bytes:
        """Return a PNG of random rows of (source, placebo, edit of any kind), two side by side; nothing is picked."""
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(self.exam.scenes), size=min(SHEET_ROWS, len(self.exam.scenes)), replace=False)
        edits = [self.edits[kind].images for kind in rng.choice(list(self.edits), size=len(chosen))]
        return drawn_sheet(
            [
                (self.exam.samples[row].image, self.placebos.images[row], images[row])
                for row, images in zip(chosen, edits, strict=True)
            ]
        )

    def _edited(
        self,
        kind: ExamKind,
        goals: list[Scene],
        severity: float = 1.0,
        stage: Editor | None = None,
        exam: Exam | None = None,
    ) -> Edited:
        batch = batch_of(exam or self.exam, kind, goals, [b""] * len(goals), severity)
        made = list((stage or self.stage)(batch))[len(goals) :]
        images = [item.image for item in made if isinstance(item, Sample)]
        if len(images) != len(goals):
            raise RunError(f"the editor gave up {len(goals) - len(images)} of {len(goals)} edits: {made[-1]}")
        return Edited(scenes=goals, images=images)

    def _right_figures(
        self, name: str, kind: ExamKind, edited: Edited, targets: Mapping[str, float]
    ) -> Iterator[Figure]:
        """Yield how often the judge sees what the edit put in, and what it was to keep."""
        right, changed = self.exam.right(edited.images, edited.scenes), ATTRIBUTE_OF[kind]
        for attribute in dict.fromkeys((changed, "class", "colour", "background")):
            word, found = "garment" if attribute == "class" else attribute, right[attribute]
            title = f"{name}.new_{word}" if attribute == changed else f"{name}.{word}_kept"
            if attribute == "class":
                yield kept(title, found, self.exam.sees["class"], targets.get(attribute))
            else:
                yield share(title, int(found.sum()), len(found), targets.get(attribute))

    def _distance_figures(self, kind: str, images: Sequence[ImageBytes], masks: np.ndarray) -> Iterator[Figure]:
        """Yield the perceptual distance to the source inside and outside the garment's mask."""
        distance = self.exam.distance([sample.image for sample in self.exam.samples[: len(images)]], images)
        for where, weight in (("inside", masks), ("outside", 1 - masks)):
            weighted = (distance * weight).sum((1, 2)) / np.maximum(weight.sum((1, 2)), 1e-6)
            yield mean_figure(f"editor.{kind}.distance_{where}", weighted)

    def _curve_point(self, name: str, settings: dict[str, float | str]) -> Iterator[Figure]:
        config, stage = self.config.model_copy(update=settings), None
        if config != self.config:
            stage = Editor(config, CPU, name="editor", seed=0, offline=True)
        for kind in CURVE_KINDS:
            edited = self.edits[kind]
            if stage is not None:
                edited = self._edited(kind, edited.scenes, stage=stage)
            yield from self._right_figures(f"editor.curve.{kind}.{name}", kind, edited, {})
            if kind == "background":
                yield self._realism(f"{TEXTURE}.curve.{name}", edited.images, REALISM[TEXTURE])

    def _realism_figures(self) -> Iterator[Figure]:
        """Yield KID of edits against true composites of the same contents, and of two halves of true ones."""
        half = len(self.exam.scenes) // 2
        for name, stage in REALISM.items():
            yield self._realism(f"{name}.edits_to_true", self.edits["background"].images, stage)
            true = self.exam.pooled(self._true_backgrounds, stage)
            yield kernel_figure(f"{name}.true_to_true", true[:half], true[half:])

    def _realism(self, name: str, images: Sequence[ImageBytes], stage: int) -> Figure:
        # Edits of one half against true composites of the other: no picture meets its own truth.
        half = len(images) // 2
        true = self.exam.pooled(self._true_backgrounds[half:], stage)
        return kernel_figure(name, self.exam.pooled(images[:half], stage), true)

    @cached_property
    def _true_backgrounds(self) -> list[bytes]:
        return [picture(scene) for scene in self.edits["background"].scenes]


def targets(scenes: Sequence[Scene], kind: ExamKind) -> list[Scene]:
    """Return what each composite should show after an edit of this kind; other values take turns."""
    goals = []
    for index, scene in enumerate(scenes):
        changes: dict[str, Any] = {}
        if kind == "garment":
            label = (scene.label + 1 + index // len(CLASSES) % (len(CLASSES) - 1)) % len(CLASSES)
            changes = {"label": label, "garment": int(load_garments("heldout").of_class(label)[0])}
        elif kind in FIELDS:
            field = FIELDS[kind]
            others = [value for value in ATTRIBUTES[field] if value != getattr(scene, field)]
            changes = {field: others[index % len(others)]}
        goals.append(replace(scene, **changes))
    return goals


def batch_of(
    exam: Exam, kind: ExamKind, goals: Sequence[Scene], images: Sequence[ImageBytes], severity: float = 1.0
) -> list[Sample]:
    """Return the first composites as captioned sources, then an edit of each with its image."""
    sources = captioned(exam.samples, exam.scenes)[: len(goals)]
    edits = [
        replace(
            sample,
            key=f"{sample.key}_cf",
            role="counterfactual",
            image=image,
            edit=edit_of(kind, scene, goal, severity),
        )
        for sample, scene, goal, image in zip(sources, exam.scenes, goals, images, strict=False)
    ]
    return [*sources, *edits]


def edit_of(kind: ExamKind, scene: Scene, goal: Scene, severity: float = 1.0) -> Edit:
    """Return the edit that turns a composite into its goal, in the zoo's first wording."""
    before, after = (getattr(one, FIELDS[kind]) if kind in FIELDS else caption(one) for one in (scene, goal))
    return Edit(
        kind=kind,
        before=f"{before} light" if kind == "lighting" else before,
        after=after,
        instruction=edit_instructions(kind, before, after, scene.class_name)[0],
        caption=caption(goal),
        severity=severity,
    )


def mean_figure(name: str, distances: np.ndarray) -> Figure:
    """Return the mean of perceptual distances with its interval."""
    return bootstrapped(name, lambda rows: float(distances[rows].mean()), len(distances), unit="LPIPS-like")


def drawn_sheet(rows: Sequence[tuple[ImageBytes, ImageBytes, ImageBytes]], columns: int = 5, edge: int = 96) -> bytes:
    """Return a PNG of triples (source, placebo, edit), `columns` of them side by side."""
    gap = 12
    height = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * (3 * edge + gap), height * (edge + 4)), "white")
    for index, triple in enumerate(rows):
        x, y = index % columns * (3 * edge + gap), index // columns * (edge + 4)
        for place, image in enumerate(triple):
            sheet.paste(decode_rgb(image).resize((edge, edge), Image.Resampling.NEAREST), (x + place * edge, y))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
