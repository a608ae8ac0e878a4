"""The configuration of each stage: a discriminated union on `kind`. Defaults live here and nowhere else."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from engine.sample import EditKind


class Config(BaseModel):
    """Refuse unknown fields and changes after validation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Placement(Config):
    """Say where the actors of a stage run. Never part of a stage's logic."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where num_gpus > 0, else the CPU")
    num_cpus: float = Field(1.0, ge=0, description="CPU cores reserved for one actor")
    num_gpus: float = Field(0.0, ge=0, description="GPUs for one actor; a fraction shares one GPU")
    replicas: tuple[int, int] = Field((1, 1), description="smallest and largest number of actors [min, max]")
    num_threads: int = Field(
        1, ge=1, description="threads of one actor: fixed, so that bytes do not depend on the machine"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Placement":
        low, high = self.replicas
        if not 1 <= low <= high:
            raise ValueError(f"replicas must be [min, max] with 1 <= min <= max, got [{low}, {high}]")
        if self.device == "cpu" and self.num_gpus:
            raise ValueError(f"device is cpu but num_gpus is {self.num_gpus}: set one of the two")
        if self.device == "cuda" and not self.num_gpus:
            raise ValueError("device is cuda but num_gpus is 0: set num_gpus to 1 or to a fraction")
        return self


class StageConfig(Config):
    """Hold what every stage has."""

    placement: Placement = Placement()
    batch_size: int = Field(16, ge=1, description="samples in one forward pass; batches are padded to this one shape")


class ModelConfig(Config):
    """Name a model: a local folder, a hub id or an alias such as zoo/editor."""

    name: str = Field(description="local folder, hub id, or alias (zoo/captioner, zoo/perturber, ...)")
    revision: str | None = Field(None, description="commit of a hub id; pin it, names move")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


AttentionKernel = Literal["default", "sdpa", "flash", "xformers"]


class CaptionerConfig(StageConfig):
    """Caption sources that have no caption."""

    kind: Literal["captioner"] = "captioner"
    model: ModelConfig
    prompt: str | None = Field(
        None, description="text given with the image: a task token for Florence-2, a prefix for BLIP"
    )
    max_new_tokens: int = Field(32, ge=1)
    attention: AttentionKernel = "default"
    overwrite: bool = Field(False, description="also caption sources that came with a caption")


class PerturberConfig(StageConfig):
    """Ask a causal language model for edits of each caption, plus a placebo for each source."""

    kind: Literal["perturber"] = "perturber"
    model: ModelConfig
    edits: dict[EditKind, int] = Field(
        {"background": 2, "colour": 1}, description="edits of each kind for one source; the placebo is added by itself"
    )
    placebo: bool = Field(True, description="also make the edit that changes nothing, to measure the generator itself")
    severities: tuple[float, ...] = Field(
        (1.0,), description="each edit is made at each of these severities, in (0, 1]"
    )
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(96, ge=1)
    retries: int = Field(1, ge=0, description="more attempts after a reply that is not valid or repeats an edit")
    attention: AttentionKernel = "default"

    @model_validator(mode="after")
    def _possible(self) -> "PerturberConfig":
        if "placebo" in self.edits:
            raise ValueError("edits.placebo: set `placebo: true` instead; there is one placebo for each source")
        if any(count < 0 for count in self.edits.values()):
            raise ValueError("edits: a count cannot be negative")
        if not all(0 < severity <= 1 for severity in self.severities):
            raise ValueError(f"severities must be in (0, 1], got {list(self.severities)}")
        return self


class WantedEdit(Config):
    """Hold the share of a class's edits that goes to one kind, value (null: any) and severity."""

    kind: EditKind
    value: str | None
    severity: float
    share: float


class SteeredPerturberConfig(PerturberConfig):
    """Spend the same number of edits by an allocation, named by its hash. No run file says so: a round does."""

    allocation: str
    wanted: dict[str, tuple[WantedEdit, ...]]


class EditorConfig(StageConfig):
    """Make the edited image from its source with a diffusion pipeline."""

    kind: Literal["editor"] = "editor"
    model: ModelConfig
    method: Literal["instruct", "img2img", "inpaint"] = Field(
        "instruct", description="instruct: follows Edit.instruction; img2img and inpaint: follow Edit.caption"
    )
    num_inference_steps: int = Field(20, ge=1)
    scheduler: str | None = Field(
        None,
        description="a scheduler of diffusers in place of the model's own, such as UniPCMultistepScheduler, which "
        "needs fewer steps than DDIM for pictures as rough as real ones",
    )
    guidance_scale: float = Field(7.5, ge=1)
    image_guidance_scale: float = Field(1.5, ge=1, description="instruct only")
    guidance_interval: tuple[float, float] = Field(
        (0.0, 1.0),
        description="the share of the steps, from and to, in which guidance applies; outside of it a step costs one "
        "row of the UNet (Kynkaanniemi et al. 2024: early and late guidance does little good). Slots only",
    )
    strength: float = Field(0.6, gt=0, le=1, description="img2img and inpaint, at severity 1")
    inversion: bool = Field(
        False,
        description="img2img only: start from the noise that DDIM inversion finds for the source, not from drawn "
        "noise; once for all edits of a source. The model's scheduler, or `scheduler`, must be DDIMScheduler",
    )
    inpaint_region: Literal["background", "object"] = Field(
        "background", description="inpaint only: the side that is redrawn"
    )
    mask_model: ModelConfig | None = Field(
        None, description="inpaint only: a segmentation model that finds the object by its class name, such as CLIPSeg"
    )
    negative_prompt: str | None = None
    keep_detail: bool = Field(
        False,
        description="instruct and img2img: where an edit changes nothing, put back what the autoencoder loses, as thin "
        "lines and small faces. One encoding and decoding more for each image",
    )
    size: int | None = Field(None, ge=8, description="edge in pixels; default: the model's own")
    decode_batch_size: int = Field(
        8, ge=1, description="pictures in one pass of the autoencoder, texts in one of the text encoders. Slots only"
    )
    attention: AttentionKernel = "default"
    jpeg_quality: int = Field(95, ge=1, le=100)

    @model_validator(mode="after")
    def _has_mask(self) -> "EditorConfig":
        if (self.method == "inpaint") != (self.mask_model is not None):
            raise ValueError("mask_model goes with method inpaint and with no other: give both or neither")
        if not 0 <= self.guidance_interval[0] < self.guidance_interval[1] <= 1:
            raise ValueError(
                f"guidance_interval must be [from, to] with 0 <= from < to <= 1, got {list(self.guidance_interval)}"
            )
        if self.keep_detail and self.method == "inpaint":
            raise ValueError("keep_detail: method inpaint keeps what is outside its mask as it is: leave it out")
        return self


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


class PluginConfig(StageConfig):
    """Run a class of the user's own: the only open door."""

    kind: Literal["plugin"] = "plugin"
    target: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="package.module:Class, made as Class(options, device)"
    )
    options: dict[str, JsonValue] = {}


AnyStageConfig = Annotated[
    CaptionerConfig | PerturberConfig | EditorConfig | VerifierConfig | PluginConfig, Field(discriminator="kind")
]
