"""Examine edits of two turns: both changes should be in the picture, and drawing twice should cost little by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from actors.editor.editor import Editor
from actors.zoo.exam.editor import edit_of, mean_figure, targets
from actors.zoo.exam.scenes import CPU, Exam, captioned, kept
from engine.errors import RunError
from engine.figures.figures import Figure, share
from engine.runfile.editor import EditorConfig
from engine.sample import Edit, ImageBytes, Sample, turn_key
from engine.wardrobe.scene import Scene

KINDS = ("background", "colour")
BOTH_SEEN = 0.9


@dataclass(frozen=True, kw_only=True)
class TwoTurns:
    """Pictures of one turn and of two: of edits to `goals`, and of placebos."""

    goals: tuple[list[Scene], list[Scene]]
    edits: tuple[list[ImageBytes], list[ImageBytes]]
    placebos: tuple[list[ImageBytes], list[ImageBytes]]


def turns_figures(exam: Exam, config: EditorConfig) -> Iterator[Figure]:
    """Yield how often the judge sees the new background and the new colour, and what one and two placebos change."""
    made = draw_twice(exam, Editor(config, CPU, name="editor", seed=0, offline=True))
    once, twice = (exam.right(made.edits[turn], made.goals[turn]) for turn in (0, 1))
    background, colour = (twice[kind] for kind in KINDS)
    yield share("editor.turns.both_seen", int((background & colour).sum()), len(background), BOTH_SEEN)
    yield share("editor.turns.new_background", int(background.sum()), len(background))
    yield share("editor.turns.new_colour", int(colour.sum()), len(colour))
    yield kept("editor.turns.garment_kept", twice["class"], exam.sees["class"])
    yield kept("editor.turns.first.garment_kept", once["class"], exam.sees["class"])
    sources = [sample.image for sample in exam.samples]
    named = exam.found(sources)["class"]
    for name, images in zip(("first", "second"), made.placebos, strict=True):
        changed = exam.found(images)["class"] != named
        yield share(f"editor.turns.{name}_placebo.garment_verdict_changes", int(changed.sum()), len(changed))
        yield mean_figure(f"editor.turns.{name}_placebo.distance", exam.distance(sources, images).mean((1, 2)))


def draw_twice(exam: Exam, stage: Editor) -> TwoTurns:
    """Return an edit of background of each composite, one of colour on top of it, and a placebo of each turn."""
    first_goals = targets(exam.scenes, "background")
    both_goals = targets(first_goals, "colour")
    batch: list[Sample] = []
    for source, *scenes in zip(captioned(exam.samples, exam.scenes), exam.scenes, first_goals, both_goals, strict=True):
        batch += [source, *_turns_of(source, scenes)]
    made = [item for item in stage(batch) if isinstance(item, Sample)]
    if len(made) != len(batch):
        raise RunError(f"the editor gave up {len(batch) - len(made)} of {len(batch)} edits and placebos")
    _, placebo, placebo_again, edit, both = ([item.image for item in made[place::5]] for place in range(5))
    return TwoTurns(goals=(first_goals, both_goals), edits=(edit, both), placebos=(placebo, placebo_again))


def _turns_of(source: Sample, scenes: Sequence[Scene]) -> Iterator[Sample]:
    """Yield the placebos of a source, then its edits, each of one turn and of two."""
    scene, goal, both = scenes
    same = Edit.placebo(source.caption)
    first = replace(source, key=f"{source.key}_placebo", role="placebo", image=b"", edit=same)
    yield first
    yield replace(first, key=turn_key(first.key, 2), edit=replace(same, turn=2))
    change = edit_of("background", scene, goal)
    edited = replace(source, key=f"{source.key}_cf00", role="counterfactual", image=b"", edit=change)
    yield edited
    yield replace(edited, key=turn_key(edited.key, 2), edit=change.then(edit_of("colour", goal, both)))
