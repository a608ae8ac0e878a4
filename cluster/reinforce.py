"""The reinforce phase: fine-tune the classifier under Ray Train and decide whether the result ships."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, cast

from engine.emphasis import EditCell, draws_of_cells
from engine.errors import EngineError, RunDirectoryError, RunError, RunFileError
from engine.gate import Decision, Score, decide
from engine.recipe import ShardContents, deepspeed_settings, inspect_shard
from engine.rundir import REINFORCE, WEAKNESS, RunDirectory, shard_path
from engine.runfile import RunFile
from engine.sample import Json
from engine.splits import split_of
from engine.stages import ModelConfig

if TYPE_CHECKING:
    from ray.train import RunConfig

    from actors.finetune_state import FinetuneTask, Progress

LOG = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
POLL_S = 1.0
READERS = 8
# Ray Train registers a checkpoint when it next asks its workers, by default every 2 s: what dies before is lost.
HEALTH_CHECK_S = "0.5"


def reinforce_run(run: RunFile, rundir: RunDirectory) -> dict[str, Json]:
    """Train the arms, choose a checkpoint of each on validation data, and return what it writes to reinforce.json.

    A Ray session must be there. What is done already is not done again. Raises LeakError where a shard holds test data,
    RunFileError for settings that cannot work, RunError where the training fails.
    """
    if run.probe.model is None:
        raise RunFileError("reinforce needs the classifier's weights: set probe.model, a probe.callable has none")
    settings = deepspeed_settings(run.reinforce)
    contents = inspect_shards(run, rundir)
    draws = edit_draws(run, rundir, contents)
    name = training_name(run, run.probe.model, rundir, settings, draws)
    if (done := _finished(rundir, name)) is not None:
        LOG.info("reinforce: done already: %s", done["verdict"])
        return done
    from actors.finetune_state import FinetuneTask, Progress

    found = any(shard.train for shard in contents)
    arms = run.reinforce.arms if found else ()
    if not found:
        LOG.warning("reinforce: no counterfactual of a train source was accepted: only the patient is scored")
    elif "reinforced" in arms and not rundir.exists(WEAKNESS):
        LOG.warning("reinforce: not probed yet, so every edit is drawn alike: `counterforge probe` says which matter")
    task = FinetuneTask(
        name=name,
        run=run,
        rundir=rundir.storage.root,
        contents=contents,
        draws=draws,
        arms=arms,
        deepspeed=settings,
    )
    with _followed(rundir, task):
        output = _fit(task, rundir)
    if (error := output.get("error")) is not None:
        raise error
    result = _result(task, Progress.from_json(output), output)
    rundir.write_json(REINFORCE, result)
    LOG.info("reinforce: %s: %s", result["verdict"], "; ".join(cast(list[str], result["reasons"])))
    return result


def inspect_shards(run: RunFile, rundir: RunDirectory) -> tuple[ShardContents, ...]:
    """Return what the shards that are done hold for training; raise LeakError, naming shard and key, for any test data.

    The split of each source is computed again from the hash of its split key.
    """
    split_keys = rundir.plan().split_keys()
    splits = {key: split_of(split_key, run.data.splits, run.seed) for key, split_key in split_keys.items()}
    with ThreadPoolExecutor(READERS) as pool:
        return tuple(pool.map(lambda index: inspect_shard(index, rundir.read_shard(index), splits), rundir.done()))


def edit_draws(run: RunFile, rundir: RunDirectory, contents: Sequence[ShardContents]) -> dict[EditCell, int]:
    """Return how often the arm `reinforced` draws an edit of each cell, by what the probe found."""
    weakness = cast(dict[str, Any], rundir.read_json(WEAKNESS)) if rundir.exists(WEAKNESS) else None
    return draws_of_cells(
        weakness, sorted({cell for shard in contents for cell in shard.cells}), run.reinforce.emphasis
    )


def training_name(
    run: RunFile,
    model: ModelConfig,
    rundir: RunDirectory,
    settings: Mapping[str, Json],
    draws: Mapping[EditCell, int],
) -> str:
    """Return a digest of all that decides the result of a training, so that no other one is resumed by mistake."""
    from actors.loading import model_digest, resolve_model

    reinforce = run.reinforce.model_dump(mode="json", exclude={"placement", "max_failures", "deepspeed"})
    placement = run.reinforce.placement
    parts = {
        "seed": run.seed,
        "plan": rundir.info.digest,
        "shards": [marker.files[shard_path(index)].sha256 for index, marker in rundir.markers().items()],
        "model": model_digest(resolve_model(model, run.offline)),
        "reinforce": reinforce,
        "deepspeed": settings,
        "draws": [[*cell, count] for cell, count in sorted(draws.items())],
        "oracle": None if run.data.oracle is None else run.data.oracle.model_dump(mode="json"),
        "placement": [placement.device, placement.num_gpus > 0, placement.num_threads],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _finished(rundir: RunDirectory, name: str) -> dict[str, Json] | None:
    if not rundir.exists(REINFORCE):
        return None
    result = cast(dict[str, Any], rundir.read_json(REINFORCE))
    models = [arm["model"] for arm in result["arms"].values() if "model" in arm]
    whole = all(rundir.exists(f"{model}/config.json") for model in models)
    return result if whole and result["settings"]["training"] == name else None


def _fit(task: "FinetuneTask", rundir: RunDirectory) -> dict[str, Any]:
    """Run the training and return what its first worker returned."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_S)
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from actors.finetuner import train_loop

    config, placement = task.run.reinforce, task.run.reinforce.placement
    on_gpu = placement.num_gpus > 0
    resources = {"CPU": placement.num_cpus} | ({"GPU": placement.num_gpus} if on_gpu else {})
    trainer = TorchTrainer(
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


def _run_config(task: "FinetuneTask", rundir: RunDirectory) -> "RunConfig":
    from ray.train import CheckpointConfig, FailureConfig, RunConfig
    from ray.train.v2.api.config import LoggingConfig

    filesystem = None
    if rundir.storage.is_local:
        path = str(rundir.storage.local_path(CHECKPOINTS).resolve())
    else:
        from pyarrow.fs import FileSystem

        filesystem, base = FileSystem.from_uri(rundir.storage.root)
        path = f"{base.rstrip('/')}/{CHECKPOINTS}"
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
    for name, record in progress.arms.items():
        assert record.best is not None
        scores[name] = record.best
        arms[name] = record.best.to_json() | {
            "best_step": record.best_step,
            "best_share": record.best_share,
            "frontier": [_without_none(asdict(point)) for point in record.frontier],
            "model": f"models/{name}",
            "history": [_without_none(asdict(line)) for line in record.history],
        }
    decision = decide(patient, scores, output["edit_sources"], config)
    if not any(shard.train for shard in task.contents):
        reason = "no counterfactual of a train source was accepted: there is nothing to learn from"
        decision = Decision(verdict="do not ship", reasons=(reason,))
    settings = config.model_dump(mode="json") | {"deepspeed": dict(task.deepspeed), "training": task.name}
    return {
        "arms": arms,
        "verdict": decision.verdict,
        "reasons": list(decision.reasons),
        "settings": settings,
        "images": output["images"],
    }


def _without_none(record: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in record.items() if value is not None}


@contextmanager
def _followed(rundir: RunDirectory, task: "FinetuneTask") -> Iterator[None]:
    """Log each line of history when a worker has written it, from a thread of its own."""
    stop, said = Event(), len(_lines(rundir, task))

    def follow() -> None:
        nonlocal said
        last = False
        while not last:
            last = stop.wait(POLL_S)
            lines = _lines(rundir, task)
            for line in lines[said:]:
                LOG.info("reinforce: %s", _describe(line, task.run.reinforce.num_steps))
            said = max(said, len(lines))

    if said:
        LOG.info("reinforce: goes on after %s", _describe(_lines(rundir, task)[-1], task.run.reinforce.num_steps))
    thread = Thread(target=follow, name="reinforce-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _lines(rundir: RunDirectory, task: "FinetuneTask") -> list[dict[str, Any]]:
    try:
        return cast(list[dict[str, Any]], rundir.read_json(task.history_path))
    except RunDirectoryError:
        return []


def _describe(line: Mapping[str, Any], num_steps: int) -> str:
    edits = line["validation_edits_accuracy"]
    return (
        f"{line['arm']}: step {line['step']}/{num_steps}, loss {line['loss']:.3f}, "
        f"validation {100 * line['validation_accuracy']:.1f} %"
        f"{'' if edits is None else f', edits {100 * edits:.1f} %'}, {line['images_per_second']:.0f} images/s"
    )
