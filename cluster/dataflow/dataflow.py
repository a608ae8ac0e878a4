"""The dataflow of a run on Ray Data: read each shard, pass it through the actors of the stages, commit it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import ray.data
import ray.exceptions
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from cluster.dataflow.blocks import Read, commit_block, read_block
from cluster.dataflow.shard_row import ShardRow
from cluster.dataflow.stage_group import TRANSIENT_ERRORS, StageGroup
from cluster.dataflow.stage_watch import StageWatch
from cluster.session.placement import IO_CPUS, group_placement
from cluster.session.worker import explain
from engine.runfile.run import RunFile
from engine.shards.marker import Marker
from engine.storage.storage import Storage

NUM_RETRIES = 2
NUM_INIT_DEATHS = 5
# Shards of an actor: one in progress, while Ray hands over the one before and fetches the next.
SHARDS_IN_FLIGHT = 2


class ShardDatasource(Datasource):  # type: ignore[misc]  # ray ships no types
    """Make one read task a shard; the driver asks `reader` for the function that reads a shard in its task."""

    def __init__(self, shards: Sequence[int], reader: Callable[[int], Read]) -> None:
        super().__init__()
        self._shards = shards
        self._reader = reader
        self._tasks: list[ReadTask] | None = None

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: the size of images is not known before they are read."""
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
                ReadTask(partial(read_block, shard, self._reader(shard)), metadata) for shard in self._shards
            ]
        return self._tasks


def run_dataflow(
    run: RunFile,
    shards: Sequence[int],
    reader: Callable[[int], Read],
    commit: Callable[[ShardRow], Marker],
    storage: Storage,
    classes: Sequence[str],
) -> Iterator[Marker]:
    """Stream shards through the stages; yield the marker of each that `commit` returns. Read and commit run in tasks.

    The actors record in `storage` which shard they are on; `classes` are the run's. Raises EngineError.
    """
    context = data_context()
    _scale_pools(context)
    with ray.data.DataContext.current(context):
        dataset = ray.data.read_datasource(
            ShardDatasource(shards, reader), override_num_blocks=len(shards), num_cpus=IO_CPUS
        )
        for group in run.stage_groups():
            placement = group_placement(run, group)
            dataset = dataset.map_batches(
                # Ray names the operator after its class; StageWatch reads the stages from that name.
                type("+".join(group), (StageGroup,), {}),
                fn_constructor_kwargs={"run": run, "group": tuple(group), "storage": storage, "classes": classes},
                batch_size=1,
                batch_format="pandas",
                compute=ray.data.ActorPoolStrategy(
                    min_size=placement.replicas[0],
                    max_size=placement.replicas[1],
                    max_tasks_in_flight_per_actor=SHARDS_IN_FLIGHT,
                    # Ray then fetches and hands over in threads; the stages are still called one at a time, always by
                    # one thread.
                    max_concurrent_calls_per_actor=SHARDS_IN_FLIGHT,
                ),
                num_cpus=placement.num_cpus,
                num_gpus=placement.num_gpus or None,
            )
        dataset = dataset.map_batches(
            commit_block,
            fn_kwargs={"commit": commit},
            batch_size=1,
            batch_format="pandas",
            compute=ray.data.TaskPoolStrategy(),
            num_cpus=IO_CPUS,
        )
        try:
            for batch in dataset.iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=0):
                yield from (Marker.from_json(data, "of a commit") for data in batch["marker"])
        except ray.exceptions.RayError as error:
            raise explain(error) from error


def data_context() -> ray.data.DataContext:
    """Return the settings of Ray Data for shards; each prevents a failure that was observed without it."""
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = None  # a finite size tears a block in two
    context.execution_no_progress_timeout_s = -1  # 30 minutes would kill a run that waits for spot GPUs
    context.max_errored_blocks = 0  # anything else drops shards silently
    context.max_consecutive_actor_init_deaths = NUM_INIT_DEATHS
    context.actor_init_retry_on_errors = True
    context.actor_init_max_retries = NUM_RETRIES
    context.retried_map_errors = TRANSIENT_ERRORS
    context.max_map_retries = NUM_RETRIES
    context.memory_usage_poll_interval_s = None  # else a thread is started and ended for each shard
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.custom_execution_callback_classes = [StageWatch]
    return context


def _scale_pools(context: ray.data.DataContext) -> None:
    """Lower the thresholds: Ray divides a pool's shards in flight by its concurrent calls, here SHARDS_IN_FLIGHT."""
    scaling = context.autoscaling_config
    context.autoscaling_config = replace(
        scaling,
        actor_pool_util_upscaling_threshold=scaling.actor_pool_util_upscaling_threshold / SHARDS_IN_FLIGHT,
        actor_pool_util_downscaling_threshold=scaling.actor_pool_util_downscaling_threshold / SHARDS_IN_FLIGHT,
    )
