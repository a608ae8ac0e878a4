"""The signals of a verifier beyond its CLIP: each scores every edit in a way of its own."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from engine.runfile.fields import Config, ModelConfig, ServerConfig

# What is said of a picture; {} stands for the word of a class.
Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]


class SignalConfig(Config):
    """Hold what every signal has: the names of its scores, and of which edits they are made.

    A score is called `<signal>.<name>`, one whose name is "" like the signal itself. Of the edits whose text does not
    change, such as placebos, those in `of_text` are not asked.
    """

    asked_of: Literal["all", "passing"] = Field(
        "all",
        description="passing: only of edits that pass the checks of all other signals, for one that is dear; an edit "
        "that was not asked stays rejected, whatever `select` sets",
    )

    scores: ClassVar[tuple[str, ...]] = ("",)
    of_text: ClassVar[tuple[str, ...]] = ()

    def score_names(self, signal: str) -> dict[str, bool]:
        """Return the names of the scores of a signal of this name, and whether they ask how the text changes."""
        return {f"{signal}.{score}" if score else signal: score in self.of_text for score in self.scores}


class ClipSignal(SignalConfig):
    """A second CLIP: the scores of `model`, named after the signal.

    With `templates` also `class`, the change from source to edit of the similarity to its class, and `class_margin`:
    the edit's similarity to its class less that to the nearest other class of the run, undefined where there is none.
    """

    kind: Literal["clip"] = "clip"
    model: ModelConfig
    templates: tuple[Template, ...] = Field(
        (),
        description="what is said of a class, such as `a photo of a {}`; of several the mean embedding counts (Radford "
        "et al. 2021). default: classes are not asked for",
    )

    scores = ("image", "text_source", "text_edit", "directional", "consistency")
    of_text = ("directional", "consistency")

    def score_names(self, signal: str) -> dict[str, bool]:
        """Return the names of the scores, with those of classes where there are templates."""
        of_classes = ("class", "class_margin") if self.templates else ()
        return super().score_names(signal) | {f"{signal}.{score}": False for score in of_classes}


class VisionSignal(SignalConfig):
    """An encoder of images alone, such as DINOv2: the cosine between its features of the edit and of the unedited.

    It was never taught by captions, so it does not share a CLIP's errors.
    """

    kind: Literal["vision"] = "vision"
    model: ModelConfig
    beside: Literal["placebo", "source"] = Field(
        "placebo", description="what the edit is compared with; a source without a placebo stands for its own"
    )


class SpectrumSignal(SignalConfig):
    """Traces of generators in the edit that its placebo has not: 0 is none, below 0 some.

    `grid`: peaks at a decoder's stride; `resampling`: a picture that was blown up; `repetition`: a ground of tiles.
    """

    kind: Literal["spectrum"] = "spectrum"

    scores = ("grid", "resampling", "repetition")


class ClassifierSignal(SignalConfig):
    """Any image classifier with labels that are refused, such as one for safety: the probability of all others."""

    kind: Literal["classifier"] = "classifier"
    model: ModelConfig
    refuse: tuple[str, ...] = Field(min_length=1, description="labels of its id2label, such as nsfw")


class DescriptionSignal(SignalConfig):
    """A model that sees describes the edit: 1 where it names the class of the source, 0 where it does not."""

    kind: Literal["description"] = "description"
    model: ModelConfig
    server: ServerConfig | None = Field(None, description="where the model is served; default: it is loaded here")
    prompt: str | None = Field(None, description="the question, such as `What is the main object?`; as of a captioner")
    max_new_tokens: int = Field(32, ge=1)


class LocalitySignal(SignalConfig):
    """What changed outside of the region that the edit was to change, and not in its placebo: 0 is nothing, -1 all.

    It is of the pixels alone. An edit whose editor names no region has the score NaN, and fails the check where a floor
    asks for it; a placebo is not asked.
    """

    kind: Literal["locality"] = "locality"

    of_text = ("",)


class DiffusionSignal(SignalConfig):
    """A diffusion model as classifier: how much better the edit is denoised by its class's word than by any other's.

    A margin in [-1, 1], above 0 where the class wins among those of the run, undefined where there is one class. It is
    dear: an edit takes samples[0] rows of the UNet a class, then more for those kept.
    """

    kind: Literal["diffusion"] = "diffusion"
    model: ModelConfig = Field(description="a Stable Diffusion 1 or 2, or an InstructPix2Pix of these")
    prompt: Template = Field(
        "a photo of a {}",
        description="what is said of a picture; {} stands for the class, by the first of the perturber's `class_words`",
    )
    given: Literal["edit", "source"] = Field(
        "edit",
        description="the picture that an InstructPix2Pix is conditioned on. edit: which word would leave the edit as "
        "it is; source: which word as an instruction makes it of its source",
    )
    samples: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (4, 16), min_length=1, description="draws of noise that the errors of a class are over, after each stage"
    )
    keep: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (3,), description="other classes that are left after each stage but the last; the edit's own always is"
    )
    size: int | None = Field(None, ge=8, description="edge in pixels of what the model sees; default: its own")
    unet_rows: int = Field(16, ge=1, description="rows of one call of the UNet")

    @model_validator(mode="after")
    def _stages_get_narrower(self) -> "DiffusionSignal":
        if len(self.keep) != len(self.samples) - 1:
            raise ValueError(
                f"keep has {len(self.keep)} numbers and samples has {len(self.samples)}: keep needs one for each stage "
                "but the last"
            )
        if list(self.samples) != sorted(set(self.samples)) or list(self.keep) != sorted(self.keep, reverse=True):
            raise ValueError("samples must rise from stage to stage, as [4, 16], and keep must not, as [3]")
        return self


AnySignalConfig = Annotated[
    ClipSignal
    | VisionSignal
    | SpectrumSignal
    | ClassifierSignal
    | DescriptionSignal
    | LocalitySignal
    | DiffusionSignal,
    Field(discriminator="kind"),
]
