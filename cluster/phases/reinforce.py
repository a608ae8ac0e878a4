"""The reinforce phase: fine-tune the classifier under Ray Train and decide whether the result ships."""

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from cluster.monitor.training_log import logged_history
from cluster.session.worker import last_line
from engine.errors import EngineError, RunError
from engine.run.directory import REINFORCE, WEAKNESS, RunDirectory
from engine.runfile.arms import ArmConfig
from engine.runfile.run import RunFile
from engine.sample import Json
from engine.storage.object_store import open_remote
from engine.training.recipe import nothing_to_learn_from
from engine.training.result import TrainOutput, to_result
from engine.training.settings import TrainSettings, resolve_settings, trained_model

if TYPE_CHECKING:
    from ray.train import RunConfig
    from ray.train.torch import TorchTrainer

LOG = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
# Ray Train registers a checkpoint when it next asks its workers, by default every 2 s: what dies before is lost.
HEALTH_CHECK_S = "0.5"


def reinforce_run(
    run: RunFile, rundir: RunDirectory, result_file: str = REINFORCE, *, follow: bool = False
) -> dict[str, Json]:
    """Train the arms, choose a checkpoint of each on validation data, and return what it writes to the result file.

    A Ray session must be there. What is done already is not done again. With `follow` it starts on the shards that are
    done and takes in those that come. Raises LeakError where a shard holds test data, RunFileError for settings that
    cannot work, RunError where the training fails or nothing comes any more.
    """
    from actors.models.files import resolve_model

    digest = resolve_model(trained_model(run), run.offline).digest
    settings = resolve_settings(run, rundir, digest, follow=follow)
    if (done := _finished(rundir, settings.name, result_file)) is not None:
        LOG.info("reinforce: done already: %s", done["verdict"])
        return done
    if not settings.arms:
        LOG.warning("reinforce: %s; only the base classifier is scored", nothing_to_learn_from(settings.config))
    elif any(map(_looks_at_weakness, settings.config.arms.values())) and not rundir.exists(WEAKNESS):
        LOG.warning("reinforce: not probed yet, so every edit is drawn alike: `counterforge probe` says which matter")
    with logged_history(rundir, settings):
        output = _fit(settings, rundir)
    result = to_result(settings, output)
    rundir.write_json(result_file, result)
    LOG.info("reinforce: %s: %s", result["verdict"], "; ".join(cast(list[str], result["reasons"])))
    return result


def _looks_at_weakness(arm: ArmConfig) -> bool:
    return arm.edits is not None and arm.edits.by == "weakness"


def _finished(rundir: RunDirectory, name: str, result_file: str) -> dict[str, Json] | None:
    if not rundir.exists(result_file):
        return None
    result = cast(dict[str, Any], rundir.read_json(result_file))
    models = [arm["model"] for arm in result["arms"].values() if "model" in arm]
    whole = all(rundir.exists(f"{model}/config.json") for model in models)
    return result if whole and result["settings"]["training"] == name else None


def _fit(settings: TrainSettings, rundir: RunDirectory) -> TrainOutput:
    """Run the training and return the output of its first worker; raise the error that it returned."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_S)
    from ray.train import ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig

    from actors.finetune.worker import train_loop

    config, placement = settings.config, settings.config.placement
    on_gpu = placement.num_gpus > 0
    resources = {"CPU": placement.num_cpus} | ({"GPU": placement.num_gpus} if on_gpu else {})
    trainer = _trainer_class()(
        train_loop,
        train_loop_config={"settings": settings},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=on_gpu, resources_per_worker=resources),
        run_config=_run_config(settings, rundir),
    )
    try:
        output: TrainOutput | EngineError = trainer.fit().return_value
    except TrainingFailedError as error:
        raise _explain(error) from error
    if isinstance(output, EngineError):
        raise output
    return output


def _trainer_class() -> "type[TorchTrainer]":
    """Return Ray's trainer, but one that leaves Ctrl-C to the program.

    Its own handler ends the process with exit code 0, and stays when the training is over: a Ctrl-C later on then asks
    an actor that is gone. Ours raises KeyboardInterrupt, and the end of the session ends the training. There is no
    public switch; RunError where this version of Ray sets its handler elsewhere.
    """
    import ray
    from ray.train.torch import TorchTrainer

    if not hasattr(TorchTrainer, "_register_sigint_handler"):
        raise RunError(
            f"Ray {ray.__version__} has no TorchTrainer._register_sigint_handler, by which Ctrl-C is left to this "
            "program: install the version that constraints.txt names"
        )

    class Trainer(TorchTrainer):  # type: ignore[misc]  # ray ships no types
        def _register_sigint_handler(self, controller: object) -> None:
            pass

    return Trainer


def _run_config(settings: TrainSettings, rundir: RunDirectory) -> "RunConfig":
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig

    filesystem = None
    if rundir.storage.is_local:
        path = str(rundir.storage.local_path(CHECKPOINTS).resolve())
    else:
        filesystem, base = open_remote(rundir.storage.root)
        path = f"{base}/{CHECKPOINTS}"
    return RunConfig(
        name=settings.name,
        storage_path=path,
        storage_filesystem=filesystem,
        failure_config=FailureConfig(max_failures=settings.config.max_failures),
        # Two: what a killed run leaves behind may still replace its last one while the next run starts from it.
        checkpoint_config=CheckpointConfig(num_to_keep=2),
        logging_config=LoggingConfig(log_level="ERROR"),
    )


def _explain(error: Exception) -> EngineError:
    """Return what a worker said about the run, or a RunError that says what happened."""
    causes: Mapping[int, BaseException] = dict(sorted(getattr(error, "worker_failures", {}).items()))
    for cause in causes.values():
        if isinstance(cause, EngineError):
            return cause
    rank, cause = next(iter(causes.items()), (None, error))
    where = "" if rank is None else f" in worker {rank}"
    said = f"{type(cause).__name__}: {last_line(str(cause))}"
    return RunError(f"fine-tuning failed{where}: {said}. The same command goes on from the last checkpoint")
