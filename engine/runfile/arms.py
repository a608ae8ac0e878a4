"""The arms: ways to fine-tune the classifier that are compared with each other. An arm is data of the run file."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from engine.runfile.fields import Config

# An arm's name is a folder of the run directory and a column of its tables.
ARM_NAME = re.compile(r"[a-z][a-z0-9_]*")
# The key under which results have the base classifier beside the arms.
BASE = "patient"


class EditsConfig(Config):
    """Train on accepted edits beside real images."""

    by: Literal["alike", "weakness"] = Field(
        "alike",
        description="alike: every edit is drawn equally often; weakness: more often the more its cell lowers accuracy",
    )
    emphasis: int | None = Field(
        None,
        ge=1,
        description="by weakness: an edit of the weakest cell is drawn so many times as often as a harmless one",
    )
    replay_ratio: float | None = Field(None, ge=0, lt=1, description="share of real images in each batch")
    placebos: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the edits in whose place the placebo of the same source is drawn: then generated images "
        "have every value of an attribute, the usual ones too",
    )
    first: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the steps that see edits alone; the others then see real images alone (FFR, Qraitem et "
        "al. 2024). 0: both are in each batch",
    )


class LossConfig(Config):
    """Weights of the terms that are added to the cross-entropy, and which losses take its place."""

    consistency: float | None = Field(None, ge=0)
    distillation: float | None = Field(None, ge=0)
    soft_labels: float | None = Field(None, ge=0, lt=1)
    contrast: float | None = Field(None, ge=0)
    worst_group: float | None = Field(None, ge=0)


class ArmConfig(Config):
    """Say what an arm trains on, and how. Steps, batch size and schedule are the same for all arms.

    What is left out is as `reinforce` says for all arms.
    """

    images: Literal["train", "oracle"] = Field(
        "train", description="the real images: of the train split, or data.oracle, which makes the arm an upper bound"
    )
    edits: EditsConfig | None = Field(None, description="accepted edits as well; default: real images alone")
    augment: Literal["randaugment", "recombine"] | None = Field(
        None,
        description="augmentation of the real images; recombine: the object of one on the ground of another, for which "
        "data.train needs masks",
    )
    mix: Literal["cutmix"] | None = Field(None, description="images mixed with others of the batch, and their labels")
    sampler: Literal["errors", "groups"] | None = Field(
        None,
        description="errors: real images that the classifier gets wrong are drawn `upweight` times as often (JTT); "
        "groups: real images of each class and attribute value equally often, and edits of each cell",
    )
    losses: LossConfig = LossConfig()
    first_layer_rate: float | None = Field(None, gt=0, le=1)
    trained: Literal["all", "head", "lora"] | None = Field(None, description="which weights")
    fit: Literal["dfr", "dpe", "projection"] | None = Field(
        None,
        description="the head is fitted on frozen features, without steps; dfr: on groups of class and attributes in "
        "balance (Kirichenko et al. 2023); dpe: an ensemble of prototypes (To et al. 2025); projection: without the "
        "directions in which edits move the features",
    )

    @model_validator(mode="after")
    def _fits_alone(self) -> "ArmConfig":
        if self.fit is None:
            return self
        if set(self.changes()) - {"fit", "edits"} or self.edits not in (None, EditsConfig()):
            raise ValueError(
                f"fit: {self.fit} takes no steps: beside it only edits: {{by: alike}} can be set; leave the rest out"
            )
        if self.fit == "projection" and self.edits is None:
            raise ValueError("fit: projection needs pairs of edits and placebos: add edits: {by: alike}")
        return self

    @model_validator(mode="after")
    def _recombined_images_have_no_group(self) -> "ArmConfig":
        if self.augment == "recombine" and self.losses.worst_group:
            raise ValueError(
                "losses.worst_group asks for the group of each image, which is not known of one on another's ground: "
                "leave it out, or augment: recombine"
            )
        return self

    @property
    def is_bound(self) -> bool:
        """Return whether it trains on images without the weakness: an upper bound, which never ships."""
        return self.images == "oracle"

    @property
    def is_baseline(self) -> bool:
        """Return whether it needs no edits: an arm that ships must be better than it."""
        return self.edits is None and not self.is_bound

    @property
    def meaning(self) -> str:
        """Return in words what it trains on, for the page and the gate's reasons."""
        if self.fit:
            edits = " and accepted edits" if self.edits and self.fit != "projection" else ""
            return {
                "dfr": f"the head alone, fitted on real images{edits} in balance over class and attributes",
                "dpe": f"prototypes in the head's place, fitted on real images{edits} in balance over the classes",
                "projection": "the head alone, fitted on real images without the directions in which edits move them",
            }[self.fit]
        how = {"alike": "each drawn equally often", "weakness": "drawn by the weakness found"}
        words = "real images without the weakness" if self.is_bound else "real images"
        if self.edits is not None:
            words += f" and accepted edits, {how[self.edits.by]}"
            words += ", a part of them as placebos" if self.edits.placebos else ""
            words += ", edits first and real images afterwards" if self.edits.first else ""
        if under := [title_of(name) for name in (self.augment, self.mix) if name]:
            words += f" under {' and '.join(under)}"
        words += {"errors": " with the errors drawn more often", "groups": " with groups drawn equally often"}.get(
            self.sampler or "", ""
        )
        own = [f"{name.replace('_', ' ')} {value:g}" for name, value in self.numbers().items()]
        own += [f"trained: {self.trained}"] if self.trained else []
        if not (self.is_bound or self.edits or under or self.sampler or own):
            words += " only"
        return f"{words}{': an upper bound' if self.is_bound else ''}{''.join(f'; {each}' for each in own)}"

    def numbers(self) -> dict[str, float]:
        """Return the settings of `reinforce` that this arm has its own numbers for."""
        found = self.losses.model_dump() | {"first_layer_rate": self.first_layer_rate}
        found |= self.edits.model_dump(include={"emphasis", "replay_ratio"}) if self.edits else {}
        return {name: value for name, value in found.items() if value is not None}


def title_of(name: str) -> str:
    """Return an arm's name as a title."""
    titles = {
        "randaugment": "RandAugment", "cutmix": "CutMix", "recombine": "cut and paste", "groupdro": "GroupDRO",
        "dfr": "DFR", "dfr_edits": "DFR edits", "dpe": "DPE",
    }  # fmt: skip
    return titles.get(name, name.replace("_", " "))


PRESETS: Mapping[str, ArmConfig] = {
    "real_only": ArmConfig(),
    "randaugment": ArmConfig(augment="randaugment"),
    "cutmix": ArmConfig(mix="cutmix"),
    "reweighted": ArmConfig(sampler="errors"),
    "groupdro": ArmConfig(sampler="groups", losses=LossConfig(worst_group=0.01)),
    "random_edits": ArmConfig(edits=EditsConfig(by="alike")),
    "reinforced": ArmConfig(edits=EditsConfig(by="weakness")),
    "oracle": ArmConfig(images="oracle"),
    "recombine": ArmConfig(augment="recombine"),
    "dfr": ArmConfig(fit="dfr"),
    "dfr_edits": ArmConfig(fit="dfr", edits=EditsConfig(by="alike")),
    "dpe": ArmConfig(fit="dpe"),
    "projection": ArmConfig(fit="projection", edits=EditsConfig(by="alike")),
}
Preset = Literal[
    "real_only", "randaugment", "cutmix", "reweighted", "groupdro", "random_edits", "reinforced",
    "oracle", "recombine", "dfr", "dfr_edits", "dpe", "projection",
]  # fmt: skip


def with_presets(arms: object) -> object:
    """Return arms as a map of plain settings: names of a list are presets, and a preset's name in a map starts from it.

    Raises ValueError for a name that is none.
    """
    if isinstance(arms, list | tuple):
        if unknown := [name for name in arms if not (isinstance(name, str) and name in PRESETS)]:
            raise ValueError(
                f"{unknown[0]!r} is no preset; a list names some of {', '.join(PRESETS)}, an arm of your own is an "
                "entry of a map: {mine: {edits: {by: alike}, mix: cutmix}}"
            )
        return {name: PRESETS[name].changes() for name in arms}
    if not isinstance(arms, dict):
        return arms
    for name in arms:
        if not ARM_NAME.fullmatch(str(name)) or name == BASE:
            raise ValueError(f"{name!r} cannot be the name of an arm: small letters, digits and _, not {BASE}")
    return {name: _started(str(name), settings) for name, settings in arms.items()}


def without_presets(arms: Mapping[str, ArmConfig]) -> list[str] | dict[str, Any]:
    """Return arms as a run file has them: a list where all are presets, else a map of their settings."""
    if all(PRESETS.get(name) == arm for name, arm in arms.items()):
        return list(arms)
    # Whole where it is named as a preset: what the preset sets and the arm does not has to be said.
    return {name: arm.model_dump(mode="json", exclude_defaults=name not in PRESETS) for name, arm in arms.items()}


def _started(name: str, settings: object) -> object:
    """Return an arm's settings upon those of the preset of its name."""
    if settings is not None and not isinstance(settings, dict):
        return settings
    started: dict[str, Any] = PRESETS[name].changes() if name in PRESETS else {}
    for field, value in (settings or {}).items():
        before = started.get(field)
        started[field] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return started
