"""The section `reinforce` of the run file: arms, steps, losses, and what keeps the classifier from forgetting."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, PlainSerializer, model_validator

from engine.runfile.arms import PRESETS, ArmConfig, LossConfig, Preset, with_presets, without_presets
from engine.runfile.fields import PATH, Config, Placement

DEFAULT_DEEPSPEED: dict[str, JsonValue] = {"zero_optimization": {"stage": 1}}


class LoraSettings(Config):
    """Low-rank adapters: each adds `alpha / rank` times a matrix of that rank."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class ReinforceConfig(Config):
    """Fine-tune the classifier on accepted counterfactuals mixed with replayed real images."""

    arms: Annotated[
        dict[str, ArmConfig],
        BeforeValidator(with_presets, tuple[Preset, ...] | dict[str, ArmConfig | None]),
        PlainSerializer(without_presets, return_type=list[str] | dict[str, Any]),
    ] = Field(
        {name: PRESETS[name] for name in ("real_only", "reinforced")},
        description="trained one after another from the classifier under test: a list of presets, or a map from a "
        "name to what the arm does. Presets: real images alone, under RandAugment, under CutMix, cut and pasted, or "
        "with its errors drawn more often (JTT); with edits drawn alike, or by the weakness that the probe found; on "
        "data.oracle. In a map a preset's name starts from it",
    )
    ships: str = Field("reinforced", description="the arm that the gate decides on")
    num_steps: int = Field(300, ge=1, description="optimizer steps, the same in every arm")
    batch_size: int = Field(64, ge=1, description="images in one step, over all workers")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)
    replay_ratio: float = Field(0.5, ge=0, lt=1, description="share of real images in each batch of the reinforced arm")
    emphasis: int = Field(
        4,
        ge=1,
        description="arm reinforced: an edit of the weakest cell is drawn so many times as often as a harmless one",
    )
    upweight: int = Field(20, ge=1, description="arm reweighted: how often the classifier's errors are drawn")
    consistency: float = Field(
        0.0,
        ge=0,
        description="weight of the Jensen-Shannon divergence between the answers to an edit and to its source, for as "
        "many edits as a quarter of the real images, in whose place the sources stand in the batch",
    )
    distillation: float = Field(
        0.0,
        ge=0,
        description="arms with edits: weight of the divergence from the untrained classifier's answers to real images; "
        "0 for an arm that recombines them, unless it names its own",
    )
    contrast: float = Field(
        0.0,
        ge=0,
        description="arms with edits: weight of the supervised contrastive loss on what the head gets, which draws "
        "images of one class together whatever else they show",
    )
    worst_group: float = Field(
        0.0,
        ge=0,
        description="arms with edits: step size of the weights of GroupDRO, by which groups of class and attribute "
        "values count more the higher their loss; 0: all images count alike. It starts after `worst_group_after`",
    )
    worst_group_after: float = Field(
        0.3, ge=0, lt=1, description="share of the steps before the groups have weights of their own"
    )
    first_layer_rate: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of the first layers as a share of the head's; those between lie on a geometric "
        "scale of six",
    )
    edit_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the accepted edits of train sources that is trained on, by a hash of their keys; to see "
        "how many are enough",
    )
    held_out_phrases: Annotated[float, Field(ge=0, lt=1)] | tuple[str, ...] = Field(
        0.0,
        description="new values of edits, such as `snow`, that are never trained on: a share of all, by a hash of kind "
        "and words, or a list. Validation edits that have one are scored apart and choose nothing",
    )
    soft_labels: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of an edit's label that is the untrained classifier's answer to its source, which then "
        "stands in the batch, in the place of another real image",
    )
    trained: Literal["all", "head", "lora"] = Field(
        "all",
        description="which weights: all, the last linear layer, or that and low-rank adapters of the other layers, "
        "which are merged into the saved model",
    )
    lora: LoraSettings = LoraSettings()
    interpolation: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.25, 0.5, 0.75),
        description="shares of the way from the classifier's weights to the trained ones that are scored as well; "
        "costs nothing but a look at the validation images",
    )
    max_blur: float = Field(
        0.01,
        ge=0,
        le=0.2,
        description="each training image is blurred by up to this share of its edge, real ones too: else the "
        "classifier may learn to tell generated images by their smoothness",
    )
    freeze_batch_norm: bool = Field(False, description="keep the running statistics of batch norm")
    eval_every: int = Field(50, ge=1, description="steps between checkpoints, each scored on validation data")
    max_accuracy_loss: float = Field(
        0.005,
        ge=0,
        le=1,
        description="in-distribution validation accuracy that may be lost: with one standard error where weights are "
        "chosen, and on the half of the validation images that decides; more: do not ship",
    )
    deepspeed: Annotated[str | dict[str, JsonValue], PATH] = Field(
        DEFAULT_DEEPSPEED,
        description="a DeepSpeed JSON file or the same inline: ZeRO stage, precision",
    )
    num_workers: int = Field(1, ge=1, description="may be another one when the run is resumed")
    placement: Placement = Placement()
    max_failures: int = Field(3, ge=-1, description="worker failures survived by resuming from the last checkpoint")
    follow_timeout_s: float = Field(
        3600, gt=0, description="`reinforce --follow`: it stops where no further shard is done for so long"
    )

    @model_validator(mode="after")
    def _ships_an_arm(self) -> "ReinforceConfig":
        if self.ships not in self.arms and self.ships not in PRESETS:
            raise ValueError(f"ships names {self.ships!r}, the arms are {', '.join(self.arms)}: name one of them")
        if self.ships in self.arms and self.arms[self.ships].is_bound:
            raise ValueError(f"ships names {self.ships!r}, which trains on data.oracle: an upper bound never ships")
        return self

    @property
    def needs_groups(self) -> bool:
        """Return whether an arm asks which group of class and attribute values an image is in."""
        return any(arm.sampler == "groups" or self.of_arm(name).worst_group for name, arm in self.arms.items())

    def of_arm(self, name: str) -> "ReinforceConfig":
        """Return the settings that hold for one arm."""
        arm = self.arms[name]
        own: dict[str, object] = {**arm.numbers(), **({"trained": arm.trained} if arm.trained else {})}
        # The losses of all arms are for those with edits; another has those that it names.
        others = dict.fromkeys(LossConfig.model_fields, 0.0) if arm.edits is None else {}
        if arm.augment == "recombine":
            # The base classifier's answer to a recombined image is that to its ground. On garments that no run has,
            # with edits: .56 in conflict with a weight of 3, .78 without.
            others["distillation"] = 0.0
            # Its images are in no group: which attributes come with the ground is not known.
            others["worst_group"] = 0.0
        return self.model_copy(update={**others, **own})
