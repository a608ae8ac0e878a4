"""What each stage of the running dataflow is doing, as Ray Data's scheduler sees it."""

from typing import TYPE_CHECKING, ClassVar

from ray.data._internal.execution.execution_callback import ExecutionCallback

from cluster.progress import StageActivity

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces import PhysicalOperator
    from ray.data._internal.execution.streaming_executor import StreamingExecutor


class StageWatch(ExecutionCallback):  # type: ignore[misc]  # ray ships no types
    """Note at each step of the scheduler what each stage is doing; `stage_activity` reads it from another thread."""

    latest: ClassVar[tuple[StageActivity, ...]] = ()

    def on_execution_step(self, executor: "StreamingExecutor") -> None:
        """Take the numbers of every actor pool."""
        # Private, but DataContext hands callbacks the executor and this is all there is to ask it (Ray 2.60).
        StageWatch.latest = tuple(_activity(operator) for operator in executor._topology if _is_pool(operator))


def stage_activity() -> tuple[StageActivity, ...]:
    """Return what each stage of the running dataflow is doing, in order."""
    return StageWatch.latest


def _is_pool(operator: "PhysicalOperator") -> bool:
    actors = operator.get_actor_info()
    return bool(actors.running + actors.pending + actors.restarting)


def _activity(operator: "PhysicalOperator") -> StageActivity:
    actors, metrics = operator.get_actor_info(), operator.metrics
    return StageActivity(
        name=operator.name.removeprefix("MapBatches(").removesuffix(")"),
        done=metrics.num_tasks_finished,
        working=metrics.num_tasks_running,
        waiting=metrics.num_external_inqueue_blocks + metrics.num_inputs_received - metrics.num_tasks_submitted,
        actors=actors.running,
        starting=actors.pending + actors.restarting,
    )
