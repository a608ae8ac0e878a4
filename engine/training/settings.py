"""The settings of a training: resolved once from the run file, and all that its workers get of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.canonical import json_digest
from engine.errors import RunFileError
from engine.run.directory import RunDirectory, shard_path
from engine.runfile.data import DataConfig
from engine.runfile.fields import ModelConfig
from engine.runfile.reinforce import ReinforceConfig
from engine.runfile.run import RunFile
from engine.sample import Json
from engine.training.contents import EditCell, ShardContents, edit_harm, inspect_shards, source_splits
from engine.training.deepspeed import deepspeed_settings
from engine.training.recipe import followed_first

# They change how a training is run, not its result.
NO_RESULT = {"placement", "max_failures", "deepspeed", "num_workers", "follow_timeout_s"}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All that the workers of a training get.

    `deepspeed` are the complete DeepSpeed settings. `contents` lists the shards that are done, each checked for leaks;
    `harm` is what the probe found of each cell of theirs. With `follow` both are empty: the workers look which shards
    are done, and the first arm trains meanwhile. `group_by` are the attributes that make groups with the class, as
    `report.group_by` says; none: all that the images have.
    """

    name: str
    rundir: str
    seed: int
    offline: bool
    model: ModelConfig
    classes: tuple[str, ...]
    data: DataConfig
    config: ReinforceConfig
    deepspeed: Mapping[str, Json]
    arms: tuple[str, ...]
    contents: tuple[ShardContents, ...]
    harm: Mapping[EditCell, float | None]
    follow: bool
    group_by: tuple[str, ...] = ()

    @property
    def history_path(self) -> str:
        """Return the file of the run directory that shows the lines of history while they come."""
        return f"checkpoints/{self.name}/history.json"

    @property
    def probe_path(self) -> str:
        """Return the file of the run directory with what the linear probe found."""
        return f"checkpoints/{self.name}/linear_probe.json"


def resolve_settings(run: RunFile, rundir: RunDirectory, model_digest: str, *, follow: bool = False) -> TrainSettings:
    """Return the settings of a run's training; `model_digest` is that of the classifier's files.

    No arm is left where no edit was accepted. Raises LeakError where a shard holds test data, RunFileError for settings
    that cannot work.
    """
    config = run.reinforce
    contents: tuple[ShardContents, ...] = ()
    if follow:
        arms = followed_first(config)
    else:
        contents = inspect_shards(rundir, config, source_splits(rundir.plan(), run.data.splits, run.seed))
        arms = tuple(config.arms) if any(shard.train for shard in contents) else ()
    settings = TrainSettings(
        name="",
        rundir=rundir.storage.root,
        seed=run.seed,
        offline=run.offline,
        model=trained_model(run),
        classes=rundir.info.classes,
        data=run.data,
        config=config,
        deepspeed=deepspeed_settings(config),
        arms=arms,
        contents=contents,
        harm={} if follow else edit_harm(rundir, contents),
        follow=follow,
        group_by=run.report.group_by,
    )
    return replace(settings, name=_digest(settings, rundir, model_digest))


def trained_model(run: RunFile) -> ModelConfig:
    """Return the classifier's checkpoint; raise RunFileError where the run file names none."""
    if run.probe.model is None:
        raise RunFileError("reinforce needs the classifier's weights: set probe.model, a probe.callable has none")
    return run.probe.model


def _digest(settings: TrainSettings, rundir: RunDirectory, model_digest: str) -> str:
    """Return a digest of all that decides the result of a training, so that no other one is resumed by mistake.

    The number of workers is left out: a training goes on with another one. One that follows the generation is the same
    whatever shards are done.
    """
    config, placement, oracle = settings.config, settings.config.placement, settings.data.oracle
    is_fitted = any(arm.fit for arm in config.arms.values())
    shards = [marker.files[shard_path(index)].blake3 for index, marker in rundir.markers().items()]
    harm = [[*cell, value] for cell, value in sorted(settings.harm.items())]
    parts = {
        "seed": settings.seed,
        "plan": rundir.info.digest,
        "shards": None if settings.follow else shards,
        "model": model_digest,
        "reinforce": config.changes(*NO_RESULT),
        "deepspeed": {
            key: value for key, value in settings.deepspeed.items() if key != "train_micro_batch_size_per_gpu"
        },
        "harm": None if settings.follow else harm,
        "oracle": None if oracle is None else oracle.model_dump(mode="json"),
        **({"group_by": list(settings.group_by)} if config.needs_groups else {}),
        "placement": [placement.device, placement.num_gpus > 0, placement.num_threads],
        **({"group_by": list(settings.group_by)} if is_fitted else {}),
    }
    return json_digest(parts)
