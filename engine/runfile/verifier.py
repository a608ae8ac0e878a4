"""The configuration of a verifier stage, the checks that its floors make, and the rule over them."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from engine.runfile.fields import Config, ModelConfig, StageConfig
from engine.runfile.signals import AnySignalConfig, ClipSignal, Template

SignalName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
FLOORS = "floors"
# Of the scores of previews.
PREVIEW = "preview"
# Below every score of a signal.
LEAST_FLOOR = -1e6


def _by_score(value: object) -> object:
    """Return floors by score; those of one signal may be nested, as `--set floors.grid.grid=-1` writes them."""
    if not isinstance(value, dict):
        return value
    flat: dict[object, object] = {}
    for name, each in value.items():
        # What is set later, behind the floors of a file, is nested.
        flat |= {f"{name}.{part}": floor for part, floor in each.items()} if isinstance(each, dict) else {name: each}
    return flat


class RuleConfig(Config):
    """Say which checks decide, by the names of their scores: all of `every`, and `at_least` so many `of` the others."""

    every: tuple[str, ...] | None = Field(
        None, description="checks that an edit must pass; default: all that `of` does not name"
    )
    at_least: int = Field(0, ge=0, description="how many checks of `of` an edit must pass")
    of: tuple[str, ...] = Field((), description="checks that vote")

    def counts(self, score: str) -> bool:
        """Return whether the check of a score has a say."""
        return score in self.of or self.every is None or score in self.every

    @model_validator(mode="after")
    def _can_be_met(self) -> "RuleConfig":
        if twice := set(self.every or ()) & set(self.of):
            raise ValueError(f"{', '.join(sorted(twice))}: in `every` and in `of`: leave it in one of them")
        if self.at_least > len(self.of) or bool(self.of) > self.at_least:
            raise ValueError(
                f"at_least is {self.at_least} of {len(self.of)} checks: it must be from 1 to their number, or 0 "
                "without `of`"
            )
        return self


class VerifierConfig(StageConfig):
    """Score every edit with CLIP and other signals, and give a verdict by a rule.

    Scores are kept; `select` can apply other floors and another rule later. `model` and the `min_` fields are the short
    form of one CLIP; `signals` adds others, `floors` their least scores.
    """

    kind: Literal["verifier"] = "verifier"
    model: ModelConfig | None = Field(None, description="a CLIP; the `min_` fields and `consistency` are of its scores")
    min_image: float = Field(0.7, ge=-1, le=1, description="CLIP image-image similarity of source and edit")
    min_text: float = Field(0.2, ge=-1, le=1, description="CLIP similarity of each image to its own caption")
    min_directional: float = Field(0.2, ge=-1, le=1, description="CLIP directional similarity; not asked of a placebo")
    consistency: bool = Field(
        True, description="the edited image must be closer to the edited phrase than to the original one"
    )
    min_contrast: float = Field(
        0.02, ge=0, le=1, description="smallest standard deviation of pixels in [0, 1]: catches blank and black"
    )
    min_class: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="smallest change, from source to edit, of the CLIP similarity to its class (`templates`), about "
        "-0.06: finds edits that replace the main object, whatever the caption says. CLIP models differ. The class is "
        "called by the first of the perturber's `class_words`, else by its name; default: not asked",
    )
    templates: tuple[Template, ...] = Field(
        ("a photo of a {}",),
        min_length=1,
        description="what `min_class` says of a class; of several the mean embedding counts",
    )
    signals: dict[SignalName, AnySignalConfig] = Field({}, description="more signals, by a name that you choose")
    floors: Annotated[dict[str, float], BeforeValidator(_by_score)] = Field(
        {},
        description="least score that passes, by score: `<signal>`, or `<signal>.<score>` where it has several; one "
        "without a floor is kept and not asked",
    )
    rule: RuleConfig = Field(RuleConfig(), description="which checks decide; default: all of them")
    batch_size: int = Field(32, ge=1)

    @model_validator(mode="after")
    def _checks_are_of_scores(self) -> "VerifierConfig":
        if self.model is None and not self.signals:
            raise ValueError("a verifier needs a model (a CLIP) or signals, or nothing is scored")
        unasked = [field for field in OWN_SETTINGS if field not in WITHOUT_CLIP.values() and _is_set(self, field)]
        if self.model is None and unasked:
            raise ValueError(
                f"{unasked[0]} is of the scores of `model`, a CLIP, and there is none: name one, or leave it out"
            )
        if self.min_class is None and self.templates != VerifierConfig.model_fields["templates"].default:
            raise ValueError("templates say what min_class asks for, and it is not set: set it, or leave them out")
        own = [*(score for score, _ in OWN_CHECKS), PREVIEW]
        if taken := [name for name in self.signals if name in own]:
            raise ValueError(
                f"signals.{taken[0]}: {', '.join(own)} are scores of the verifier itself: take another name"
            )
        if unknown := sorted(set(self.floors) - set(signal_scores(self))):
            known = ", ".join(signal_scores(self)) or "none, as it has no signals"
            raise ValueError(f"floors.{unknown[0]}: no signal makes this score; they make: {known}")
        checks = [check.score for check in checks_of(self)]
        if unknown := [name for name in (*(self.rule.every or ()), *self.rule.of) if name not in checks]:
            raise ValueError(f"rule: {unknown[0]} is no check of this verifier; it has: {', '.join(checks)}")
        return self


class Check(NamedTuple):
    """One check of an edit: its score, which names the reason of a rejection too, and the least score that passes.

    A floor True asks for a score above 0. `setting` is where the floor stands in the configuration. A check `of_text`
    asks how the text changes, and a placebo's does not. One that `is_dear` is asked of edits that pass all others.
    """

    score: str
    floor: float | Literal[True]
    setting: str
    of_text: bool = False
    is_dear: bool = False

    @property
    def is_own(self) -> bool:
        """Return whether it is of the verifier's own scores, which previews have too."""
        return not self.setting.startswith(FLOORS)


# The verifier's own checks, in the order of the reasons: score and field.
OWN_CHECKS = (
    ("image", "min_image"),
    ("text_source", "min_text"),
    ("text_edit", "min_text"),
    ("contrast", "min_contrast"),
    ("class", "min_class"),
    ("directional", "min_directional"),
    ("consistency", "consistency"),
)
# What decides verdicts; all else decides which scores are made.
OWN_SETTINGS = tuple(name for name in VerifierConfig.model_fields if name in {field for _, field in OWN_CHECKS})
DECIDING = (*OWN_SETTINGS, FLOORS, "rule")
WITHOUT_CLIP = {"contrast": "min_contrast"}


def _is_set(config: VerifierConfig, field: str) -> bool:
    return bool(getattr(config, field) != VerifierConfig.model_fields[field].default)


def signal_scores(config: VerifierConfig) -> dict[str, bool]:
    """Return the names of the scores of `signals`, and whether they ask how the text changes."""
    return {
        score: of_text for name, signal in config.signals.items() for score, of_text in signal.score_names(name).items()
    }


def checks_of(config: VerifierConfig) -> tuple[Check, ...]:
    """Return the checks of a verifier, in the order of the reasons."""
    own = [
        Check(score=score, floor=floor, setting=field, of_text=score in ClipSignal.of_text)
        for score, field in OWN_CHECKS
        if (config.model is not None or score in WITHOUT_CLIP)
        and (floor := getattr(config, field)) is not None
        and floor is not False
    ]
    added = [
        Check(
            score=score,
            floor=config.floors[score],
            setting=f"{FLOORS}.{score}",
            of_text=of_text,
            is_dear=signal.asked_of == "passing",
        )
        for name, signal in config.signals.items()
        for score, of_text in signal.score_names(name).items()
        if score in config.floors
    ]
    return (*own, *added)


def settings_of(config: VerifierConfig) -> dict[str, float | bool]:
    """Return the values that decide verdicts of scores that are made, as `select --set` takes them, by setting."""
    made = {field for score, field in OWN_CHECKS if config.model is not None or score in WITHOUT_CLIP}
    own = {field: getattr(config, field) for field in OWN_SETTINGS if field in made}
    return {
        **{field: value for field, value in own.items() if value is not None},
        **{f"{FLOORS}.{score}": floor for score, floor in config.floors.items()},
    }


def scores_under(setting: str, config: VerifierConfig) -> tuple[str, ...]:
    """Return the scores that a setting is the floor of and that the rule counts."""
    own = [score for score, field in OWN_CHECKS if field == setting] or [setting.removeprefix(f"{FLOORS}.")]
    return tuple(score for score in own if config.rule.counts(score))


def with_settings(config: VerifierConfig, values: Mapping[str, float | bool]) -> VerifierConfig:
    """Return the configuration with other values of settings."""
    floors = {name.removeprefix(f"{FLOORS}."): value for name, value in values.items() if "." in name}
    update: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    return config.model_copy(update=update | ({FLOORS: {**config.floors, **floors}} if floors else {}))


@cache
def loosest(setting: str) -> float | bool:
    """Return the value of a setting that every finite score passes: False, or the least value of its field."""
    if "." in setting:
        return LEAST_FLOOR
    field = VerifierConfig.model_json_schema()["properties"][setting]
    number = next((each for each in field.get("anyOf", [field]) if "minimum" in each), None)
    return False if number is None else float(number["minimum"])
