"""The section `stages` of the run file: a discriminated union on `kind`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from engine.runfile.captioner import CaptionerConfig
from engine.runfile.editor import CompositorConfig, EditorConfig
from engine.runfile.fields import StageConfig
from engine.runfile.perturber import PerturberConfig
from engine.runfile.verifier import VerifierConfig


class PluginConfig(StageConfig):
    """Run a class of the user's own: the only open door."""

    kind: Literal["plugin"] = "plugin"
    target: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="package.module:Class, made as Class(options, device, name=..., seed=...): its device 'cpu' or "
        "'cuda', the name of the stage, and the seed of the run, for sample.seed(seed)",
    )
    options: dict[str, JsonValue] = Field({}, description="what the class is given")


AnyStageConfig = Annotated[
    CaptionerConfig | PerturberConfig | EditorConfig | CompositorConfig | VerifierConfig | PluginConfig,
    Field(discriminator="kind"),
]
# Stages that draw edits, each those that `strategies` give it.
DRAWING = ("editor", "compositor")


def words_of_classes(stages: Mapping[str, AnyStageConfig]) -> Mapping[str, Sequence[str]]:
    """Return the words by class that a run's perturber is given; none where it has no perturber."""
    return next((stage.class_words for stage in stages.values() if isinstance(stage, PerturberConfig)), {})


def drawn_share(stages: Mapping[str, AnyStageConfig], editor: str) -> float:
    """Return the share of a run's edits and placebos that one of its editors draws."""
    perturber = next((stage for stage in stages.values() if isinstance(stage, PerturberConfig)), None)
    if perturber is None or not perturber.strategies:
        return 1.0
    total = perturber.num_edits() + perturber.num_placebos()
    return (perturber.num_edits(editor) + perturber.num_placebos(editor)) / total


def check_one_of_each_kind(stages: Mapping[str, AnyStageConfig]) -> None:
    """Raise ValueError where two stages would do the same work: the second finds it done, or overwrites it.

    Of several editors each draws the edits that the perturber's `strategies` give it.
    """
    first: dict[str, str] = {}
    routed = _routed(stages)
    for name, stage in stages.items():
        if stage.kind == "plugin" or name in routed:
            continue
        if stage.kind in first:
            raise ValueError(
                f"stages: {first[stage.kind]!r} and {name!r} are both of kind {stage.kind}, and a run has one: leave "
                "one of them out, or make two runs; of editors the perturber's `strategies` say who draws what"
            )
        first[stage.kind] = name


def _routed(stages: Mapping[str, AnyStageConfig]) -> set[str]:
    """Return the editors that a perturber's `strategies` name; raise ValueError where they do not fit the stages."""
    found: set[str] = set()
    for place, (perturber, stage) in enumerate(stages.items()):
        if not isinstance(stage, PerturberConfig) or not stage.strategies:
            continue
        behind = list(stages)[place + 1 :]
        editors = [name for name in behind if stages[name].kind in (*DRAWING, "plugin")]
        for kind, names in stage.strategies.items():
            if unknown := [name for name in names if name not in editors]:
                raise ValueError(
                    f"stages.{perturber}.strategies.{kind}: {unknown[0]!r} is no editor behind it; there are "
                    f"{', '.join(editors) or 'none'}"
                )
        if idle := [name for name in behind if stages[name].kind in DRAWING and name not in stage.editors]:
            raise ValueError(f"stages.{perturber}.strategies: nothing is left to draw for the editor {idle[0]!r}")
        lossless = {getattr(stages[name], "lossless", False) for name in behind if stages[name].kind in DRAWING}
        if len(lossless) > 1:
            raise ValueError("stages: `lossless` is of all images of a run: set it in all of its editors, or in none")
        found.update(stage.editors)
    return found


def check_early_rejection(stages: Mapping[str, AnyStageConfig]) -> None:
    """Raise ValueError unless an editor that rejects early has a verifier behind it."""
    editors = [name for name, stage in stages.items() if isinstance(stage, EditorConfig)]
    names = [name for name, stage in stages.items() if isinstance(stage, EditorConfig) and stage.early_rejection]
    if names and len(editors) > 1:
        raise ValueError(
            f"stages.{names[0]}.early_rejection: a cut is found for one editor, and there are {len(editors)}: leave it "
            "out"
        )
    verifiers = [place for place, stage in enumerate(stages.values()) if isinstance(stage, VerifierConfig)]
    if names and max(verifiers, default=-1) < list(stages).index(names[0]):
        raise ValueError(
            f"stages.{names[0]}.early_rejection: it foretells a verdict, and no stage of kind verifier comes behind: "
            "add one, or leave it out"
        )
    if names and any(isinstance(stage, PerturberConfig) and stage.turns for stage in stages.values()):
        raise ValueError(
            f"stages.{names[0]}.early_rejection: a cut is found for edits of one turn, and the perturber has `turns`: "
            "leave one of them out"
        )
    if names and not any(isinstance(stage, VerifierConfig) and stage.model for stage in stages.values()):
        raise ValueError(
            f"stages.{names[0]}.early_rejection: previews are scored by the CLIP of the verifier's field `model`, and "
            "it has none: name one"
        )
