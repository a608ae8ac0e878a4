"""The run file: one YAML file is one whole run. This module owns its schema."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from engine.stages import AnyStageConfig, Config, ModelConfig, Placement

ArmName = Literal["real_only", "randaugment", "cutmix", "reweighted", "random_edits", "reinforced", "oracle"]

DEFAULT_DEEPSPEED: dict[str, JsonValue] = {"zero_optimization": {"stage": 1}}


class FolderSource(Config):
    """Read a folder with one sub-folder a class."""

    kind: Literal["folder"] = "folder"
    path: str = Field(description="a folder of class folders: path/cat/1.jpg, path/dog/a/2.png")


class TableSource(Config):
    """Read a CSV or JSONL with the columns path and label, and if wanted caption, group and attributes."""

    kind: Literal["table"] = "table"
    path: str = Field(description="a .csv, .tsv or .jsonl file")
    image_folder: str | None = Field(
        None, description="image paths are relative to this folder and stay inside; default: that of the table"
    )
    classes: tuple[str, ...] = Field((), description="names of the integer labels 0, 1, 2, ...")
    attributes: tuple[str, ...] = Field((), description="further columns to keep, for evaluation by group")


class TarSource(Config):
    """Read WebDataset tars: {key}.jpg with {key}.cls or a label in {key}.json, and if wanted a caption and a group."""

    kind: Literal["webdataset"] = "webdataset"
    path: str = Field(description="one tar, or a folder of tars")
    classes: tuple[str, ...] = Field((), description="names of the integer labels 0, 1, 2, ...")
    attributes: tuple[str, ...] = Field((), description="further fields of the json to keep")


class HuggingFaceSource(Config):
    """Read a Hugging Face dataset that was saved to disk."""

    kind: Literal["huggingface"] = "huggingface"
    path: str = Field(description="a folder written by save_to_disk")
    split: str | None = Field(None, description="which one, where the folder holds several (a DatasetDict)")
    image_column: str = "image"
    label_column: str = "label"
    caption_column: str | None = None
    group_column: str | None = None
    attributes: tuple[str, ...] = Field((), description="further columns to keep")


class WardrobeSource(Config):
    """Make garment composites with exact ground truth: the data that ships with Counterforge."""

    kind: Literal["wardrobe"] = "wardrobe"
    split: Literal["sources", "heldout"] = "sources"
    count: int = Field(8000, ge=1, description="number of composites")
    correlation: float | None = Field(
        None, ge=0, le=1, description="share of each class on its own background; null: every background equally often"
    )
    captions: bool = Field(False, description="give the true captions along instead of leaving them to the captioner")
    seed: int = Field(0, ge=0, description="another seed, other composites")


AnySource = Annotated[
    FolderSource | TableSource | TarSource | HuggingFaceSource | WardrobeSource, Field(discriminator="kind")
]


class Splits(Config):
    """Share of the sources in each split; a source's split is a hash of its key, or of its group where it has one."""

    train: float = Field(0.8, ge=0, le=1)
    validation: float = Field(0.1, ge=0, le=1)
    test: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> "Splits":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test must be 1, got {total:g}")
        return self


class DataConfig(Config):
    """Name the labelled images."""

    train: AnySource = Field(description="the classifier's own kind of data: edited, replayed and split")
    test: AnySource | None = Field(None, description="in-distribution test set; default: the test split of `train`")
    shifted: AnySource | None = Field(
        None, description="a second test set under shift, for groups; default: the same as `test`"
    )
    oracle: AnySource | None = Field(
        None,
        description="images of the same kind without the weakness, for the arm `oracle`, which shows what could be "
        "had; those of the train split are used",
    )
    splits: Splits = Splits()
    num_sources: int | None = Field(
        None, ge=1, description="how many sources of the train split get edits; default: all"
    )
    num_validation_sources: int = Field(
        0, ge=0, description="sources of the validation split that get edits too, for model selection"
    )


class ShardConfig(Config):
    """Shape the shards."""

    sources_per_shard: int = Field(32, ge=1, description="sources with their edits in one tar; aim at 64 to 256 MB")
    keep_rejected: Literal["all", "metadata", "none"] = "all"


class ProbeConfig(Config):
    """Measure where the classifier fails."""

    model: ModelConfig | None = Field(None, description="any image classification checkpoint")
    callable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="package.module:function, a black box instead of `model`",
    )
    batch_size: int = Field(64, ge=1)
    placement: Placement = Placement()
    confidence: float = Field(0.95, gt=0.5, lt=1)
    num_bootstraps: int = Field(1000, ge=100)
    min_sources: int = Field(10, ge=2, description="cells with fewer sources are not reported")
    transfer: tuple[ModelConfig, ...] = Field(
        (),
        description="other classifiers, asked about the same pictures: is what the first fails at hard for them too?",
    )

    @model_validator(mode="after")
    def _one(self) -> "ProbeConfig":
        if (self.model is None) == (self.callable is None):
            raise ValueError("give exactly one of probe.model and probe.callable")
        return self


class ReinforceConfig(Config):
    """Fine-tune the classifier on accepted counterfactuals mixed with replayed real images."""

    arms: tuple[ArmName, ...] = Field(
        ("real_only", "reinforced"),
        description="trained one after another from the classifier under test: real images alone, under RandAugment, "
        "under CutMix, or with its errors drawn more often (JTT); with edits drawn alike, or by the weakness that the "
        "probe found; on data.oracle",
    )
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
        description="weight of the Jensen-Shannon divergence between the answers to an edit and to its source, which "
        "then stand in one batch, in the place of other real images",
    )
    distillation: float = Field(
        0.0,
        ge=0,
        description="arms with edits: weight of the divergence from the untrained classifier's answers to real images",
    )
    trained: Literal["all", "head"] = Field("all", description="which weights: all, or the last linear layer")
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
        description="in-distribution validation accuracy that may be lost, with one standard error; more: do not ship",
    )
    deepspeed: str | dict[str, JsonValue] = Field(
        DEFAULT_DEEPSPEED,
        description="a DeepSpeed JSON file or the same inline: ZeRO stage, precision",
    )
    num_workers: int = Field(1, ge=1)
    placement: Placement = Placement()
    max_failures: int = Field(3, ge=-1, description="worker failures survived by resuming from the last checkpoint")


class ReportConfig(Config):
    """Shape the report."""

    num_rows: int = Field(24, ge=0, description="picture rows: source, placebo, counterfactuals")
    group_by: tuple[str, ...] = Field(
        (), description="attributes that make a group together with the class; default: every attribute"
    )
    gpu_price_per_hour: float | None = Field(None, ge=0, description="in your currency, for the plan's cost")


class RunFile(Config):
    """Describe one whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="a word of letters, digits, _ and -")
    seed: int = Field(0, ge=0)
    data: DataConfig
    shards: ShardConfig = ShardConfig()
    stages: dict[str, AnyStageConfig] = Field(description="the pipeline, in order; names are free")
    groups: tuple[tuple[str, ...], ...] = Field(
        (("editor", "verifier"),),
        description="stages that share one actor and its device; placement is that of the first",
    )
    probe: ProbeConfig
    reinforce: ReinforceConfig = ReinforceConfig()
    report: ReportConfig = ReportConfig()
    offline: bool = Field(False, description="never ask a model hub; models must be on disk or in its cache")

    @model_validator(mode="after")
    def _groups_are_runs_of_stages(self) -> "RunFile":
        names = list(self.stages)
        if not names:
            raise ValueError("stages: at least one stage is needed")
        for group in self.groups:
            known = [name for name in group if name in names]
            if known and [name for name in names if name in group] != names[names.index(known[0]) :][: len(known)]:
                raise ValueError(
                    f"groups: {list(group)} must be neighbours in stages, in that order; stages are {names}"
                )
        return self

    def stage_groups(self) -> list[list[str]]:
        """Return the stage names in order, those that share an actor together."""
        group_of = {name: tuple(group) for group in self.groups for name in group}
        result: list[list[str]] = []
        for name in self.stages:
            if result and name in group_of and group_of.get(result[-1][-1]) == group_of[name]:
                result[-1].append(name)
            else:
                result.append([name])
        return result


def resolve_path(path: str, run_file: Path) -> str:
    """Return `path` as it is when absolute or remote, else relative to the run file's folder."""
    if "://" in path or Path(path).is_absolute():
        return path
    return str((run_file.parent / path).resolve())
