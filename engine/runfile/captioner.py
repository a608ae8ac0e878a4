"""The configuration of a captioner stage."""

from typing import Literal

from pydantic import Field

from engine.runfile.fields import AttentionKernel, ModelConfig, ServerConfig, StageConfig


class CaptionerConfig(StageConfig):
    """Caption sources that have no caption."""

    kind: Literal["captioner"] = "captioner"
    model: ModelConfig
    server: ServerConfig | None = Field(None, description="where the model is served; default: it is loaded here")
    prompt: str | None = Field(
        None, description="text given with the image: a task token for Florence-2, a prefix for BLIP"
    )
    max_new_tokens: int = Field(32, ge=1)
    attention: AttentionKernel = "default"
    overwrite: bool = Field(False, description="also caption sources that came with a caption")
