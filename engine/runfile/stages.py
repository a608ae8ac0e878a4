"""The section `stages` of the run file: a discriminated union on `kind`."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from engine.runfile.captioner import CaptionerConfig
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import StageConfig
from engine.runfile.perturber import PerturberConfig
from engine.runfile.verifier import VerifierConfig


class PluginConfig(StageConfig):
    """Run a class of the user's own: the only open door."""

    kind: Literal["plugin"] = "plugin"
    target: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="package.module:Class, made as Class(options, device), its device 'cpu' or 'cuda'",
    )
    options: dict[str, JsonValue] = Field({}, description="what the class is given")


AnyStageConfig = Annotated[
    CaptionerConfig | PerturberConfig | EditorConfig | VerifierConfig | PluginConfig, Field(discriminator="kind")
]


def check_early_rejection(stages: Mapping[str, AnyStageConfig]) -> None:
    """Raise ValueError unless at most one editor rejects early, and there is a verifier behind it."""
    names = [name for name, stage in stages.items() if isinstance(stage, EditorConfig) and stage.early_rejection]
    if len(names) > 1:
        raise ValueError(f"stages: {names[0]!r} and {names[1]!r} have early_rejection, one editor may: leave it out")
    verifiers = [place for place, stage in enumerate(stages.values()) if isinstance(stage, VerifierConfig)]
    if names and max(verifiers, default=-1) < list(stages).index(names[0]):
        raise ValueError(
            f"stages.{names[0]}.early_rejection: it foretells a verdict, and no stage of kind verifier comes behind: "
            "add one, or leave it out"
        )
