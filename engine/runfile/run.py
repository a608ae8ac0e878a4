"""The run file: one YAML file is one whole run. This module owns its schema."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from engine.credentials import refuse_credentials
from engine.runfile.fields import Config
from engine.runfile.reinforce import ReinforceConfig
from engine.runfile.rounds import RoundsConfig
from engine.runfile.stages import AnyStageConfig, ModelConfig, PerturberConfig, Placement, check_early_rejection

STAGE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"


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
    seed: int | None = Field(
        None, description="of that hash; default: the run's. Set, it keeps the split where the run's seed changes"
    )

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
    near_duplicates: Literal["group", "off"] = Field(
        "group",
        description="sources that look alike fall in one split, and those that look like an image of `test` or "
        "`shifted` are left out; costs a look at every image once a run. off: only keys and groups decide",
    )
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
    min_drop: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="a cell is a weakness where its edits cost clearly more accuracy than this beyond the placebo: "
        "making an edit disturbs a picture more than making none, which a clean classifier feels too",
    )
    transfer: tuple[ModelConfig, ...] = Field(
        (),
        description="other classifiers, asked about the same pictures: is what the first fails at hard for them too?",
    )

    @model_validator(mode="after")
    def _one(self) -> "ProbeConfig":
        if (self.model is None) == (self.callable is None):
            raise ValueError("give exactly one of probe.model and probe.callable")
        return self


class ReportConfig(Config):
    """Shape the report."""

    num_rows: int = Field(24, ge=0, description="picture rows: source, placebo, counterfactuals")
    num_attributions: int = Field(
        12,
        ge=0,
        description="edits that flip the classifier, of those rows, for which is found out where on the picture they "
        "moved its answer; each asks 130 questions of it",
    )
    group_by: tuple[str, ...] = Field(
        (), description="attributes that make a group together with the class; default: every attribute"
    )
    gpu_price_per_hour: float | None = Field(None, ge=0, description="in your currency, for the plan's cost")


class LimitsConfig(Config):
    """Say when something is given up that does not come back."""

    sample_s: float = Field(
        60.0,
        gt=0,
        description="seconds a stage may work on a sample, on a shard as often as it has samples; then its worker is "
        "ended, and a sample with which that happens again is given up",
    )
    stalled_s: float = Field(
        1800.0,
        gt=0,
        description="seconds without a finished shard while no stage has one at work and no node is missing: then "
        "storage or Ray hangs, and `on_stall` is done. Stages at work have `sample_s`",
    )
    on_stall: Literal["stop", "warn"] = Field(
        "stop", description="stop: end the run with exit code 1 and the reason; the same command goes on. warn: wait"
    )
    nodes_s: float | None = Field(
        None,
        gt=0,
        description="seconds without a finished shard while stages wait for GPUs or CPUs that the cluster does not "
        "have: then the run ends. Default: it waits for as long as it takes, as for spot machines",
    )


Count = Annotated[int, Field(ge=1)]


def _with_count(value: object) -> object:
    """Let `rounds: 3` stand for `rounds: {count: 3}`."""
    return {"count": value} if type(value) is int else value


class RunFile(Config):
    """Describe one whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="a word of letters, digits, _ and -")
    seed: int = Field(0, ge=0)
    data: DataConfig
    shards: ShardConfig = ShardConfig()
    stages: dict[str, AnyStageConfig] = Field(
        description="the pipeline, in order; names are words of letters, digits, _ and -"
    )
    groups: tuple[tuple[str, ...], ...] = Field(
        (("editor", "verifier"),),
        description="stages that share one actor and its device; placement is that of the first",
    )
    rounds: Annotated[RoundsConfig, BeforeValidator(_with_count, Count | RoundsConfig)] = RoundsConfig()
    probe: ProbeConfig
    reinforce: ReinforceConfig = ReinforceConfig()
    report: ReportConfig = ReportConfig()
    limits: LimitsConfig = LimitsConfig()
    offline: bool = Field(False, description="never ask a model hub; models must be on disk or in its cache")

    @model_validator(mode="before")
    @classmethod
    def _holds_no_credentials(cls, tree: Any) -> Any:  # noqa: ANN401 any YAML value
        # Before all else: what is said of another field repeats its value.
        return refuse_credentials(tree)

    @model_validator(mode="after")
    def _groups_are_runs_of_stages(self) -> "RunFile":
        names = list(self.stages)
        if not names:
            raise ValueError("stages: at least one stage is needed")
        # They are parts of file names.
        if odd := [name for name in names if not re.fullmatch(STAGE_NAME, name)]:
            raise ValueError(f"stages: a name is letters, digits, _ and -, got {odd[0]!r}")
        for group in self.groups:
            known = [name for name in group if name in names]
            if known and [name for name in names if name in group] != names[names.index(known[0]) :][: len(known)]:
                raise ValueError(
                    f"groups: {list(group)} must be neighbours in stages, in that order; stages are {names}"
                )
        return self

    @model_validator(mode="after")
    def _rounds_can_be_steered(self) -> "RunFile":
        kinds = [kind for stage in self._perturbers() for kind, count in stage.edits.items() if count]
        problems = {
            "a perturber among stages, which is what a round steers": not kinds,
            "probe.model: a black box is not trained, so no round would differ": self.probe.model is None,
            "data.num_validation_sources, whose edits show where it is weak": not self.data.num_validation_sources,
            "reinforced among reinforce.arms": "reinforced" not in self.reinforce.arms,
            f"rounds.floor of at most {1 / max(1, len(kinds)):g}": self.rounds.floor * len(kinds) > 1,
        }
        if self.rounds.count > 1 and (missing := [what for what, lacks in problems.items() if lacks]):
            raise ValueError(f"rounds: more than one round needs {'; '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _previews_have_a_verifier(self) -> "RunFile":
        check_early_rejection(self.stages)
        return self

    @model_validator(mode="after")
    def _an_oracle_has_images(self) -> "RunFile":
        if "oracle" in self.reinforce.arms and self.data.oracle is None:
            raise ValueError("reinforce.arms names oracle: set data.oracle to images without the weakness")
        return self

    def _perturbers(self) -> list[PerturberConfig]:
        return [stage for stage in self.stages.values() if isinstance(stage, PerturberConfig)]

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
