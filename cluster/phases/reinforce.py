"""The reinforce phase: fine-tune the classifier under Ray Train and decide whether the result ships."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from cluster.monitor.training_log import logged_history
from engine.errors import EngineError, RunError, RunFileError
from engine.run.directory import REINFORCE, WEAKNESS, RunDirectory, shard_path
from engine.runfile.fields import ModelConfig
from engine.runfile.run import RunFile
from engine.sample import Json
from engine.storage.object_store import open_remote
from engine.training.emphasis import EditCell
from engine.training.gate import Decision, Gate, Score
from engine.training.inspection import edit_draws, inspect_shards
from engine.training.recipe import deepspeed_settings, followed_first, nothing_to_learn_from

if TYPE_CHECKING:
    from ray.train import RunConfig
    from ray.train.torch import TorchTrainer

    from actors.finetune.state import FinetuneTask, Progress

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
    if run.probe.model is None:
        raise RunFileError("reinforce needs the classifier's weights: set probe.model, a probe.callable has none")
    from actors.finetune.state import Progress

    task = _task(run, run.probe.model, rundir, follow=follow)
    if (done := _finished(rundir, task.name, result_file)) is not None:
        LOG.info("reinforce: done already: %s", done["verdict"])
        return done
    if not task.arms:
        LOG.warning("reinforce: %s; only the patient is scored", nothing_to_learn_from(run.reinforce))
    elif "reinforced" in task.arms and not rundir.exists(WEAKNESS):
        LOG.warning("reinforce: not probed yet, so every edit is drawn alike: `counterforge probe` says which matter")
    with logged_history(rundir, task):
        output = _fit(task, rundir)
    if (error := output.get("error")) is not None:
        raise error
    result = _result(task, Progress.from_json(output), output)
    rundir.write_json(result_file, result)
    LOG.info("reinforce: %s: %s", result["verdict"], "; ".join(cast(list[str], result["reasons"])))
    return result


def _task(run: RunFile, model: ModelConfig, rundir: RunDirectory, *, follow: bool) -> "FinetuneTask":
    """Return what the workers are told. Who follows is told of no shard: the workers look for themselves."""
    from actors.finetune.state import FinetuneTask

    settings = deepspeed_settings(run.reinforce)
    contents = () if follow else inspect_shards(run, rundir)
    draws = {} if follow else edit_draws(run, rundir, contents)
    arms = run.reinforce.arms if follow or any(shard.train for shard in contents) else ()
    return FinetuneTask(
        name=training_name(run, model, rundir, settings, None if follow else draws),
        run=run,
        rundir=rundir.storage.root,
        contents=contents,
        draws=draws,
        arms=followed_first(arms) if follow else arms,
        deepspeed=settings,
        follow=follow,
    )


def training_name(
    run: RunFile,
    model: ModelConfig,
    rundir: RunDirectory,
    settings: Mapping[str, Json],
    draws: Mapping[EditCell, int] | None,
) -> str:
    """Return a digest of all that decides the result of a training, so that no other one is resumed by mistake.

    The number of workers is left out: a training goes on with another one. Without `draws` it is one that follows the
    generation, whatever shards are done.
    """
    from actors.models.loading import resolve_model

    reinforce = run.reinforce.model_dump(
        mode="json", exclude={"placement", "max_failures", "deepspeed", "num_workers", "follow_timeout_s"}
    )
    placement = run.reinforce.placement
    parts = {
        "seed": run.seed,
        "plan": rundir.info.digest,
        "shards": None if draws is None else _digests(rundir),
        "model": resolve_model(model, run.offline).digest,
        "reinforce": reinforce,
        "deepspeed": {key: value for key, value in settings.items() if key != "train_micro_batch_size_per_gpu"},
        "draws": None if draws is None else [[*cell, count] for cell, count in sorted(draws.items())],
        "oracle": None if run.data.oracle is None else run.data.oracle.model_dump(mode="json"),
        "placement": [placement.device, placement.num_gpus > 0, placement.num_threads],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _digests(rundir: RunDirectory) -> list[str]:
    return [marker.files[shard_path(index)].blake3 for index, marker in rundir.markers().items()]


def _finished(rundir: RunDirectory, name: str, result_file: str) -> dict[str, Json] | None:
    if not rundir.exists(result_file):
        return None
    result = cast(dict[str, Any], rundir.read_json(result_file))
    models = [arm["model"] for arm in result["arms"].values() if "model" in arm]
    whole = all(rundir.exists(f"{model}/config.json") for model in models)
    return result if whole and result["settings"]["training"] == name else None


def _fit(task: "FinetuneTask", rundir: RunDirectory) -> dict[str, Any]:
    """Run the training and return what its first worker returned."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_S)
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from actors.finetune.worker import train_loop

    config, placement = task.run.reinforce, task.run.reinforce.placement
    on_gpu = placement.num_gpus > 0
    resources = {"CPU": placement.num_cpus} | ({"GPU": placement.num_gpus} if on_gpu else {})
    trainer = _trainer_class()(
        train_loop,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=on_gpu, resources_per_worker=resources),
        run_config=_run_config(task, rundir),
    )
    try:
        return cast(dict[str, Any], trainer.fit().return_value)
    except TrainingFailedError as error:
        raise _explain(error) from error


def _trainer_class() -> "type[TorchTrainer]":
    """Return Ray's trainer, which leaves Ctrl-C to the program.

    Its own handler ends the process with exit code 0, and stays when the training is over: a Ctrl-C later on then asks
    an actor that is gone. Ours raises KeyboardInterrupt, and the end of the session ends the training.
    """
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):  # type: ignore[misc]  # ray ships no types
        def _register_sigint_handler(self, controller: object) -> None:
            pass

    return Trainer


def _run_config(task: "FinetuneTask", rundir: RunDirectory) -> "RunConfig":
    from ray.train import CheckpointConfig, FailureConfig, RunConfig
    from ray.train.v2.api.config import LoggingConfig

    filesystem = None
    if rundir.storage.is_local:
        path = str(rundir.storage.local_path(CHECKPOINTS).resolve())
    else:
        filesystem, base = open_remote(rundir.storage.root)
        path = f"{base}/{CHECKPOINTS}"
    return RunConfig(
        name=task.name,
        storage_path=path,
        storage_filesystem=filesystem,
        failure_config=FailureConfig(max_failures=task.run.reinforce.max_failures),
        # Two: what a killed run leaves behind may still replace its last one while the next run starts from it.
        checkpoint_config=CheckpointConfig(num_to_keep=2),
        logging_config=LoggingConfig(log_level="ERROR"),
    )


def _explain(error: Exception) -> EngineError:
    """Return what a worker said about the run, or a RunError that says what happened."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    causes = {rank: getattr(failure, "_base_exc", failure) for rank, failure in sorted(failures.items())}
    for cause in causes.values():
        if isinstance(cause, EngineError):
            return cause
    rank, cause = next(iter(causes.items()), (None, error))
    text = str(cause).strip().splitlines()
    where = "" if rank is None else f" in worker {rank}"
    said = f"{type(cause).__name__}: {text[-1] if text else 'no message'}"
    return RunError(f"fine-tuning failed{where}: {said}. The same command goes on from the last checkpoint")


def _result(task: "FinetuneTask", progress: "Progress", output: Mapping[str, Any]) -> dict[str, Json]:
    config, patient = task.run.reinforce, progress.patient
    assert patient is not None
    arms: dict[str, Json] = {"patient": patient.to_json()}
    scores: dict[str, Score] = {}
    for name, record in sorted(progress.arms.items(), key=lambda item: config.arms.index(item[0])):
        assert record.best is not None
        scores[name] = record.best
        arms[name] = record.best.to_json() | {
            "best_step": record.best_step,
            "best_share": record.best_share,
            "frontier": [_without_none(asdict(point)) for point in record.frontier],
            "model": f"models/{name}",
            "history": [_without_none(asdict(line)) for line in record.history],
        }
    gate = Gate(patient=patient, config=config, real_groups=output["real_groups"], edit_groups=output["edit_groups"])
    decision = gate.decide(scores)
    if not output["images"]["counterfactuals"]:
        decision = Decision(verdict="do not ship", reasons=(nothing_to_learn_from(config),))
    settings = config.model_dump(mode="json") | {"deepspeed": dict(task.deepspeed), "training": task.name}
    return {
        "arms": arms,
        "verdict": decision.verdict,
        "reasons": list(decision.reasons),
        "settings": settings,
        "images": output["images"],
        **({"held_out": output["held_out"]} if config.held_out_phrases else {}),
        **({"follow": progress.arms[task.arms[0]].followed()} if task.follow and progress.arms else {}),
    }


def _without_none(record: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in record.items() if value is not None}
