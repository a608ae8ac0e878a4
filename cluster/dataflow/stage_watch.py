"""What each stage of the running dataflow is doing, as Ray Data's scheduler sees it."""

from typing import TYPE_CHECKING, ClassVar

from ray.data._internal.execution.execution_callback import ExecutionCallback

from cluster.dataflow.blocks import commit_block
from cluster.monitor.activity import Activity, StageActivity

COMMIT = commit_block.__name__

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces import PhysicalOperator
    from ray.data._internal.execution.streaming_executor import StreamingExecutor


class StageWatch(ExecutionCallback):  # type: ignore[misc]  # ray ships no types
    """Note at each step of the scheduler what the dataflow is doing; `dataflow_activity` reads it in another thread."""

    latest: ClassVar[Activity] = Activity()

    def on_execution_step(self, executor: "StreamingExecutor") -> None:
        """Take the numbers of every actor pool, and of the tasks that read and commit."""
        # Private, but DataContext hands callbacks the executor and this is all there is to ask it (Ray 2.60).
        operators = list(executor._topology)
        tasks = [operator for operator in operators if not _is_pool(operator)]
        StageWatch.latest = Activity(
            stages=tuple(_activity(operator) for operator in operators if _is_pool(operator)),
            reads=sum(operator.metrics.num_tasks_running for operator in tasks if COMMIT not in operator.name),
            writes=sum(operator.metrics.num_tasks_running for operator in tasks if COMMIT in operator.name),
        )


def dataflow_activity() -> Activity:
    """Return what the running dataflow is doing."""
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
