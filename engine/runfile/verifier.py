"""The configuration of a verifier stage, and the checks that its thresholds make."""

from typing import Literal, NamedTuple

from pydantic import Field

from engine.runfile.fields import ModelConfig, StageConfig


class VerifierConfig(StageConfig):
    """Score every edit with CLIP and give a verdict. Scores are kept; `select` can apply other thresholds later."""

    kind: Literal["verifier"] = "verifier"
    model: ModelConfig
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
        description="smallest change, from source to edit, of the CLIP similarity to `a photo of a {class}`, about "
        "-0.06: finds edits that replace the main object, whatever the caption says. CLIP models differ. The class is "
        "called by the first of the perturber's `class_words`, else by its name; default: not asked",
    )
    batch_size: int = Field(32, ge=1)


class Check(NamedTuple):
    """One check of an edit: its score, which names the reason of a rejection too, against a field of VerifierConfig.

    A field that is a number is the least score that passes; one that is true or false says whether the score must be
    above 0. Where it is None the score is not made. A check `of_text` asks how the text changes, and a placebo's does
    not.
    """

    score: str
    threshold: str
    of_text: bool = False


# In the order of the reasons.
CHECKS = (
    Check("image", "min_image"),
    Check("text_source", "min_text"),
    Check("text_edit", "min_text"),
    Check("contrast", "min_contrast"),
    Check("class", "min_class"),
    Check("directional", "min_directional", of_text=True),
    Check("consistency", "consistency", of_text=True),
)
# The fields that decide a verdict; the others decide scores.
THRESHOLDS = tuple(name for name in VerifierConfig.model_fields if any(check.threshold == name for check in CHECKS))


def loosest(threshold: str) -> float | bool:
    """Return the value of a threshold that every finite score passes: False, or the least value of its field."""
    field = VerifierConfig.model_json_schema()["properties"][threshold]
    number = next((each for each in field.get("anyOf", [field]) if "minimum" in each), None)
    return False if number is None else float(number["minimum"])


def thresholds_asked(config: VerifierConfig) -> tuple[str, ...]:
    """Return the names of the thresholds whose scores a verifier makes."""
    return tuple(name for name in THRESHOLDS if getattr(config, name) is not None)
