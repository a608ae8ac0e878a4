"""The configuration of a verifier stage."""

from typing import Literal

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
    batch_size: int = Field(32, ge=1)
