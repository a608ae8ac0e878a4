"""One shard on its way through Ray Data. The only place that turns blocks into shards and back.

A shard is one row of one block: its samples, its rejections, its seconds. Ray may split and merge blocks between rows,
never within one, so no setting of Ray can tear a shard apart.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

import pandas as pd
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from cluster.dataflow.actor_pool import actor_pool, scale_as_before
from cluster.dataflow.isolation import CarefulWork, watched
from cluster.dataflow.shard_row import ShardRow
from cluster.dataflow.stage_watch import StageWatch
from cluster.monitor.meters import StageMeter
from cluster.session.failures import Naming, load_patiently
from cluster.session.placement import IO_CPUS, group_placement
from cluster.session.worker import kind_of_machine, leave_quickly
from engine.errors import EngineError, RunError
from engine.run.attempts import Attempts, Note
from engine.runfile.run import RunFile
from engine.sample import Rejection, Sample, Stage, sort_groups
from engine.shards.marker import Marker
from engine.storage.storage import Storage
from engine.verdicts.rule import is_early

# What goes away by itself: memory that a neighbour on the GPU held, and networks.
TRANSIENT_ERRORS = [
    "out of memory",
    "Connection reset",
    "Connection aborted",
    "timed out",
    "SlowDown",
    "429 Client Error",
]
NUM_RETRIES = 2
NUM_INIT_DEATHS = 5
# A shard that was begun so often without an end is worked on in parts. The first deaths may be those of machines.
WHOLE_ATTEMPTS = 2


def to_block(row: ShardRow) -> pd.DataFrame:
    """Return a shard as a block of one row, in which Ray keeps it as the object that it is."""
    return pd.DataFrame({"shard": pd.Series([row], dtype=object)})


def from_block(block: pd.DataFrame) -> ShardRow:
    """Return the shard in a block of one row."""
    if len(block) != 1:
        raise RunError(f"a block holds {len(block)} shards, there must be exactly one: this is a bug in the dataflow")
    row: ShardRow = block["shard"].iloc[0]
    return row


Read = Callable[[], ShardRow]


class ShardDatasource(Datasource):  # type: ignore[misc]  # ray ships no types
    """Make one read task a shard; `reader` is asked on the driver for the function that reads a shard in its task."""

    def __init__(self, shards: Sequence[int], reader: Callable[[int], Read]) -> None:
        super().__init__()
        self._shards = shards
        self._reader = reader
        self._tasks: list[ReadTask] | None = None

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: images are not looked at before they are read."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: ray.data.DataContext | None = None,
    ) -> list[ReadTask]:
        """Return one task for each shard, whatever the parallelism."""
        # Ray asks several times; a hundred thousand shards are listed once.
        if self._tasks is None:
            metadata = BlockMetadata(num_rows=1, size_bytes=None, input_files=None, exec_stats=None)
            self._tasks = [
                ReadTask(partial(_read_block, shard, self._reader(shard)), metadata) for shard in self._shards
            ]
        return self._tasks


class StageGroup:
    """Run the stages that share one actor over whole shards; rejections pass by.

    With a `storage` it notes which shard it has at work, so that a sample that ends the actor is found and given up.
    """

    def __init__(self, run: RunFile, group: Sequence[str], storage: Storage | None = None) -> None:
        # Not at the top: the driver and the tasks that read and commit shards have no need of torch.
        from actors.build import build_stage

        leave_quickly()
        placement = group_placement(run, group)
        configs = {name: run.stages[name].model_copy(update={"placement": placement}) for name in group}
        self.name = "+".join(group)
        self.attempts = None if storage is None else Attempts(storage=storage, where=self.name)
        self.meter = StageMeter(run.name, self.name)
        self.sample_s = run.limits.sample_s
        self.stages: dict[str, Stage] = {}
        self.failure: EngineError | None = None
        self.machine = kind_of_machine(on_gpu=placement.num_gpus > 0)
        try:
            for name, config in configs.items():
                build = partial(build_stage, config, name=name, seed=run.seed, offline=run.offline)
                self.stages[name] = load_patiently(f"the start of stage {name!r}", build)
        except EngineError as error:
            # Raised at the first shard instead: an error in a constructor makes Ray start the actor again and again.
            self.failure = error

    def __call__(self, block: pd.DataFrame) -> pd.DataFrame:
        """Return the block with its samples processed."""
        if self.failure is not None:
            raise self.failure
        row = from_block(block)
        note = Note() if self.attempts is None else self.attempts.begin(row.shard)
        self.meter.begun(note.begun)
        try:
            done = self._in_parts(row, note) if note.begun > WHOLE_ATTEMPTS else self._apply(row)
        except EngineError:
            raise
        except Exception as error:
            if note.begun <= WHOLE_ATTEMPTS and _is_transient(error):
                raise
            done = self._in_parts(row, note)
        if self.attempts is not None:
            self.attempts.end(row.shard)
        return to_block(replace(done, machines=row.machines | {self.machine}))

    def _apply(self, row: ShardRow) -> ShardRow:
        for name, stage in self.stages.items():
            before = _calls(name, stage)
            row = apply_stage(name, self.meter.timed(name, self._watched(stage, row)), row)
            row = replace(row, calls=dict(Counter(row.calls) + (_calls(name, stage) - before)))
        return row

    def _watched(self, stage: Stage, row: ShardRow) -> Stage:
        if self.attempts is None:
            return stage
        limit_s, last_words = self.sample_s * max(len(row.samples), 1), self.attempts.last_words(row.shard)
        return lambda batch: watched(stage(batch), limit_s, last_words)

    def _in_parts(self, row: ShardRow, note: Note) -> ShardRow:
        work = CarefulWork(
            row=row, apply=self._apply, where=self.name, sample_s=self.sample_s, note=note, attempts=self.attempts
        )
        return work.run()


def _calls(name: str, stage: Stage) -> Counter[str]:
    """Return what a stage has asked of its models so far, where it counts that."""
    calls = getattr(stage, "calls", None) or {}
    return Counter({f"{name}.{what}": int(count) for what, count in calls.items()})


def apply_stage(name: str, stage: Stage, row: ShardRow) -> ShardRow:
    """Return the shard after one stage, with the stage's seconds, which add up over its parts.

    What was dropped early passes by: there is no picture to work on.
    """
    start = perf_counter()
    dropped = [sample for sample in row.samples if is_early(sample.verdict)]
    samples: list[Sample] = []
    rejections = list(row.rejections)
    with Naming(f"stage {name!r} on shard {row.shard}"):
        for result in stage([sample for sample in row.samples if not is_early(sample.verdict)]):
            match result:
                case Sample():
                    samples.append(result)
                case Rejection():
                    rejections.append(result)
                case _:
                    raise RunError(
                        f"stage {name!r} yielded a {type(result).__name__}, it must yield Sample or Rejection"
                    )
    if dropped:
        samples = sort_groups([*samples, *dropped])
    seconds = {**row.seconds, name: row.seconds.get(name, 0.0) + perf_counter() - start}
    return replace(row, samples=samples, rejections=rejections, seconds=seconds)


def run_dataflow(
    run: RunFile,
    shards: Sequence[int],
    reader: Callable[[int], Read],
    commit: Callable[[ShardRow], Marker],
    storage: Storage,
) -> Iterator[Marker]:
    """Stream shards through the stages; yield each marker that `commit` has returned. Reads and commits run in tasks.

    In `storage` the actors note what they have at work.
    """
    context = data_context()
    scale_as_before(context)
    with ray.data.DataContext.current(context):
        dataset = ray.data.read_datasource(
            ShardDatasource(shards, reader), override_num_blocks=len(shards), num_cpus=IO_CPUS
        )
        for group in run.stage_groups():
            dataset = _with_group(dataset, run, group, storage)
        dataset = dataset.map_batches(
            _commit_block,
            fn_kwargs={"commit": commit},
            batch_size=1,
            batch_format="pandas",
            compute=ray.data.TaskPoolStrategy(),
            num_cpus=IO_CPUS,
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=0):
            yield from (Marker.from_json(data, "of a commit") for data in batch["marker"])


def data_context() -> ray.data.DataContext:
    """Return the settings of Ray Data for shards; each is there for a failure that was seen without it."""
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = None  # a finite size tears a block in two
    context.execution_no_progress_timeout_s = -1  # 30 minutes would kill a run that waits for spot GPUs
    context.max_errored_blocks = 0  # anything else drops shards without a word
    context.max_consecutive_actor_init_deaths = NUM_INIT_DEATHS
    context.actor_init_retry_on_errors = True
    context.actor_init_max_retries = NUM_RETRIES
    context.retried_map_errors = TRANSIENT_ERRORS
    context.max_map_retries = NUM_RETRIES
    context.memory_usage_poll_interval_s = None  # a thread for each shard, started and ended while its actor waits
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.custom_execution_callback_classes = [StageWatch]
    return context


def _read_block(shard: int, read: Read) -> list[pd.DataFrame]:
    with Naming(f"the reading of shard {shard}"):
        return [to_block(read())]


def _commit_block(block: pd.DataFrame, commit: Callable[[ShardRow], Marker]) -> pd.DataFrame:
    """Commit a shard in a task, and hand back its marker alone."""
    row = from_block(block)
    with Naming(f"the commit of shard {row.shard}"):
        return pd.DataFrame({"marker": [commit(row).to_json()]})


def _is_transient(error: Exception) -> bool:
    return any(text in str(error) for text in TRANSIENT_ERRORS)


def _with_group(dataset: ray.data.Dataset, run: RunFile, group: Sequence[str], storage: Storage) -> ray.data.Dataset:
    placement = group_placement(run, group)
    low, high = placement.replicas
    named = type("+".join(group), (StageGroup,), {})
    return dataset.map_batches(
        named,
        fn_constructor_kwargs={"run": run, "group": tuple(group), "storage": storage},
        batch_size=1,
        batch_format="pandas",
        compute=actor_pool(low, high),
        num_cpus=placement.num_cpus,
        num_gpus=placement.num_gpus or None,
    )
