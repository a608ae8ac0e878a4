"""The run file: one YAML file is one whole run. This module owns its schema."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from engine.credentials import refuse_credentials
from engine.runfile.data import DataConfig
from engine.runfile.fields import Config
from engine.runfile.perturber import PerturberConfig
from engine.runfile.probe import ProbeConfig
from engine.runfile.reinforce import ReinforceConfig
from engine.runfile.stages import AnyStageConfig, check_early_rejection, check_one_of_each_kind

STAGE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"


class ShardConfig(Config):
    """Shape the shards."""

    sources_per_shard: int = Field(32, ge=1, description="sources with their edits in one tar; aim at 64 to 256 MB")
    keep_rejected: Literal["all", "metadata", "none"] = "all"


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


class RoundsConfig(Config):
    """Edit validation sources in a first round, and train sources in later ones, each where the classifier is weak."""

    count: int = Field(
        1,
        ge=1,
        description="number of rounds; 1: every edit as stages.<perturber>.edits says; 2: those of train sources where "
        "the classifier is weak on validation edits; 3 or more: in parts, with a training before each but the first",
    )
    floor: float = Field(
        0.1, ge=0, le=1, description="least share of a class's edits that each listed kind keeps, weak or not"
    )
    cap: float = Field(
        0.25, gt=0, le=1, description="most of a class's edits that one value at one severity gets, however weak"
    )


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
    def _rounds_can_be_allocated(self) -> "RunFile":
        perturbers = [stage for stage in self.stages.values() if isinstance(stage, PerturberConfig)]
        kinds = [kind for stage in perturbers for kind, count in stage.edits.items() if count]
        routes = [stage.strategies_of(kind) for stage in perturbers for kind in stage.edits]
        turns = {stage.num_turns(kind) for stage in perturbers for kind in stage.edits}
        # The third round and each after it follow a training.
        trains = self.rounds.count > 2
        problems = {
            "a perturber among stages, which is what a round steers": not kinds,
            "probe.model: a black box is not trained, so only two rounds differ": trains and self.probe.model is None,
            "data.num_validation_sources, whose edits show where it is weak": not self.data.num_validation_sources,
            f"{self.reinforce.ships} among reinforce.arms": trains and self.reinforce.ships not in self.reinforce.arms,
            "as many editors in `strategies` for each kind": len({len(each) for each in routes}) > 1,
            "as many `turns` for each kind": len(turns) > 1,
            f"rounds.floor of at most {1 / max(1, len(kinds)):g}": self.rounds.floor * len(kinds) > 1,
        }
        if self.rounds.count > 1 and (missing := [what for what, lacks in problems.items() if lacks]):
            raise ValueError(f"rounds: {self.rounds.count} rounds need {'; '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _stages_fit_together(self) -> "RunFile":
        check_one_of_each_kind(self.stages)
        check_early_rejection(self.stages)
        return self

    @model_validator(mode="after")
    def _an_oracle_has_images(self) -> "RunFile":
        bounds = [name for name, arm in self.reinforce.arms.items() if arm.is_bound]
        if bounds and self.data.oracle is None:
            raise ValueError(f"reinforce.arms names {bounds[0]}: set data.oracle to images without the weakness")
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
