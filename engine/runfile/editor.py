"""The configurations of the stages that draw edits: an editor, which has a diffusion pipeline, and a compositor."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from engine.runfile.data import AnySource
from engine.runfile.fields import PATH, AttentionKernel, CompileMode, Config, ModelConfig, StageConfig

# Where an edit may change the picture: all but what the class names, what the class names, or what `Edit.before` names.
InpaintRegion = Literal["background", "class", "named"]

# What an editor learns: a word of its text encoder, or a low-rank adapter of its UNet.
AdapterKind = Literal["token", "lora"]


def _first_name(inversion: bool | str) -> bool | str:
    """Return True for `ddim`: it was the only inversion, and run files that say so keep their digest."""
    return True if inversion == "ddim" else inversion


# How the noise is found from which an edit starts: not at all, by DDIM inversion (true), or by edit-friendly inversion.
Inversion = Annotated[bool | Literal["ddim", "edit_friendly"], AfterValidator(_first_name)]


class EarlyRejection(Config):
    """Turn an edit down by a preview of it, some steps in, and give the rest of its steps to others.

    The first shards of a run, its pilot, are drawn to the end: on their own scores the cut is calibrated.
    """

    after: float = Field(
        0.05, gt=0, lt=1, description="the share of an edit's steps, rounded down to one or more, before its preview"
    )
    ahead: int = Field(
        3,
        ge=0,
        description="steps in which a preview leaps ahead of its edit to the finished picture; they are lost where the "
        "edit goes on. 0: what the last step predicts, which is blurred early in many steps and sharp in few",
    )
    false_reject: float = Field(
        0.02,
        gt=0,
        lt=0.5,
        description="the share of the edits that the verifier would accept that may be lost, with 95 % confidence",
    )
    pilot_shards: int = Field(
        8,
        ge=1,
        description="shards of the pilot, of each round; fewer than there are editors leave some of these idle. With "
        "fewer than 149 accepted edits (for a false_reject of 0.02) no cut is sure, and none is made",
    )
    model: ModelConfig | None = Field(None, description="a CLIP for the previews; default: the verifier's")
    decoder: ModelConfig | None = Field(
        None, description="an AutoencoderTiny of the editor's latents for the previews; default: its own autoencoder"
    )


class AdapterConfig(Config):
    """Draw the edits whose `after` is `value` with what `counterforge learn` learned from edited pictures."""

    value: str = Field(min_length=1, description="the value, as in Edit.after")
    path: Annotated[str, PATH] = Field(description="the folder that `counterforge learn` wrote")
    kind: AdapterKind = Field(
        "token", description="token: a word of the text encoder; lora: a low-rank adapter of the UNet's attention"
    )
    digest: str | None = Field(
        None,
        description="that of its learned.safetensors, as `learn` prints it; pin it, so that what is learned anew in "
        "the same folder is refused",
    )
    scale: float = Field(1.0, gt=0, description="lora only: its strength at severity 1; at others it is as much milder")
    steps: tuple[float, float] = Field(
        (0.0, 1.0),
        description="lora only: the share of the steps, from and to, in which it acts. With a from above 0 early steps "
        "lay out the picture without it (CNS-Bench: 0.25). Slots only",
    )

    def changes(self, *left_out: str) -> dict[str, JsonValue]:
        """Return the fields that differ from their defaults; a token's kind is one, as tokens came before kinds."""
        return super().changes(*left_out, *(("kind",) if self.kind == "token" else ()))

    @model_validator(mode="after")
    def _of_its_kind(self) -> "AdapterConfig":
        if self.kind == "token" and (self.scale != 1 or self.steps != (0, 1)):
            raise ValueError("scale and steps are for kind lora: leave them out of a token, whose severity scales it")
        if not 0 <= self.steps[0] < self.steps[1] <= 1:
            raise ValueError(f"steps must be [from, to] with 0 <= from < to <= 1, got {list(self.steps)}")
        return self


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
    inversion: Inversion = Field(
        False,
        description="img2img only: ddim (or true): start from the noise that DDIM inversion finds for the source, not "
        "from drawn noise. edit_friendly: keep the noise of all steps with which DDPM leads back to the source "
        "(Huberman-Spiegelglas et al. 2024); with the source's own text and guidance_scale 1 it comes back as it was. "
        "Either once for all edits of a source. The model's scheduler, or `scheduler`, must be DDIMScheduler. Slots "
        "only",
    )
    inpaint_region: InpaintRegion = Field(
        "background",
        description="inpaint only: what is redrawn: all but what the class names, what it names, or what the edit's "
        "`before` names, such as a thing to remove; the placebo of named redraws a box as large, elsewhere",
    )
    mask_model: ModelConfig | None = Field(
        None,
        description="inpaint only: a model that finds regions by words, such as CLIPSeg; with box_model a SAM",
    )
    box_model: ModelConfig | None = Field(
        None, description="a model that finds boxes by words, such as GroundingDINO, of which mask_model cuts out"
    )
    negative_prompt: str | None = None
    adapters: tuple[AdapterConfig, ...] = Field(
        (),
        description="what was learned, one a value: a word stands in instruction and caption in its place, and "
        "severity scales it as any word; a lora acts in the edits to its value, as much as severity says. Stable "
        "Diffusion 1 and 2 only",
    )
    keep_detail: bool = Field(
        False,
        description="instruct and img2img: where an edit changes nothing, put back what the autoencoder loses, as thin "
        "lines and small faces. One encoding and decoding more for each image",
    )
    size: int | None = Field(None, ge=8, description="edge in pixels; default: the model's own")
    decode_batch_size: int = Field(
        8, ge=1, description="pictures in one pass of the autoencoder, texts in one of the text encoders. Slots only"
    )
    unet_rows: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="rows of one call of the UNet. null: those of batch_size edits. auto: the fewest with which a row "
        "is about as fast, measured and remembered as the fastest attention is; a number is one for all machines. "
        "Slots only",
    )
    attention: AttentionKernel | Literal["fastest"] = Field(
        "default",
        description="fastest: measured once for each kind of GPU, model and shape, and remembered in the cache folder "
        "(COUNTERFORGE_CACHE). On GPUs of several kinds name one: kernels differ in the last bits. Slots only",
    )
    deep_cache_interval: int = Field(
        1,
        ge=1,
        description="keep what the inner levels of the UNet make for so many steps; 1: make it anew in each. Above it "
        "pictures differ a little: try it against the verifier. At 3 XL is up to 2.6 times as fast, 1 and 2 up to 1.7. "
        "Slots only",
    )
    compile: CompileMode = Field(
        "off",
        description="compile UNet and autoencoder at an actor's first batch, which takes minutes, less where the cache "
        "folder (COUNTERFORGE_CACHE) has it. default: kernels chosen by rule, the same on all GPUs of a kind; "
        "max-autotune: by measurement, so that bits may differ between machines. Slots only",
    )
    jpeg_quality: int = Field(95, ge=1, le=100)
    lossless: bool = Field(
        False,
        description="all images of the run are PNG: eight times the bytes of JPEG, and 20 times the time of a core",
    )
    early_rejection: EarlyRejection | None = Field(
        None, description="turn hopeless edits down by a preview, some steps in. Needs a verifier behind. Slots only"
    )

    @model_validator(mode="after")
    def _can_invert(self) -> "EditorConfig":
        if self.inversion != "edit_friendly":
            return self
        if self.method != "img2img":
            raise ValueError(f"inversion edit_friendly is for method img2img, not {self.method}: leave it out")
        if self.deep_cache_interval > 1:
            raise ValueError(
                "inversion edit_friendly needs the whole UNet in each step, or the source does not come back: leave "
                "deep_cache_interval out"
            )
        return self

    @model_validator(mode="after")
    def _has_mask(self) -> "EditorConfig":
        if (self.method == "inpaint") != (self.mask_model is not None):
            raise ValueError("mask_model goes with method inpaint and with no other: give both or neither")
        if self.box_model is not None and self.mask_model is None:
            raise ValueError("box_model finds boxes of which mask_model cuts out: give mask_model too, or neither")
        if not 0 <= self.guidance_interval[0] < self.guidance_interval[1] <= 1:
            raise ValueError(
                f"guidance_interval must be [from, to] with 0 <= from < to <= 1, got {list(self.guidance_interval)}"
            )
        values = [adapter.value for adapter in self.adapters]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"adapters has several words for {twice[0]!r}: keep one")
        if self.compile != "off" and any(adapter.kind == "lora" for adapter in self.adapters):
            raise ValueError("adapters of kind lora change from call to call, which is not compiled: set compile: off")
        if self.keep_detail and self.method == "inpaint":
            raise ValueError("keep_detail: method inpaint keeps what is outside its mask as it is: leave it out")
        return self


class CompositorConfig(StageConfig):
    """Make the edited image from photographs alone, by cutting and pasting: exact where its region is, and no GPU.

    swap puts what the class names on another photograph's ground; its placebo on one that shows the same ground. remove
    fills what the edit's `before` names from around it; its placebo fills a box as large, elsewhere.
    """

    kind: Literal["compositor"] = "compositor"
    method: Literal["swap", "remove"] = Field(description="swap: another background; remove: a thing taken away")
    mask_model: ModelConfig = Field(
        description="a model that finds regions by words, such as CLIPSeg; with box_model a SAM"
    )
    box_model: ModelConfig | None = Field(
        None, description="a model that finds boxes by words, such as GroundingDINO, of which mask_model cuts out"
    )
    grounds: AnySource | None = Field(
        None,
        description="swap only: photographs of grounds, each class a ground, as in a folder grounds/beach, "
        "grounds/snow; the class is looked for in the words of the edit, as beach in `a sandy beach`",
    )
    jpeg_quality: int = Field(95, ge=1, le=100)
    lossless: bool = Field(False, description="all images of the run are PNG; as of an editor")

    @model_validator(mode="after")
    def _has_grounds(self) -> "CompositorConfig":
        if (self.method == "swap") != (self.grounds is not None):
            raise ValueError("grounds goes with method swap and with no other: give both or neither")
        return self


class PreviewCheck(Config):
    """Hold what a score must reach, and how far it is off in a preview: the spread of its change to the end."""

    floor: float
    spread: float


class PreviewingEditorConfig(EditorConfig):
    """Score previews with a CLIP, and go on with those that are not below a cut. No run file says so: a run does.

    An edit is cut whose score nearest to its floor, in spreads, is below `least`; None, as in a pilot: none is. `cut`
    is the SHA-256 of where this comes from.
    """

    clip: ModelConfig
    checks: dict[str, PreviewCheck] = Field({})
    least: float | None = None
    cut: str | None = None
