"""What each stage of the running dataflow is doing, as Ray Data's scheduler sees it."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

from cluster.dataflow.blocks import commit_block
from cluster.monitor.activity import Activity, StageActivity

LOG = logging.getLogger(__name__)
COMMIT = commit_block.__name__
# Any: of Ray Data, which ships no types; both are private.
Executor: TypeAlias = Any
Operator: TypeAlias = Any


class StageWatch:
    """Note at each step of the scheduler what the dataflow is doing; `dataflow_activity` reads it in another thread.

    Ray Data calls these methods of a callback that is named in its DataContext. What they are given is private; where
    another version of Ray has other names, the run goes on and its stages are not shown.
    """

    latest: ClassVar[Activity] = Activity()
    is_blind: ClassVar[bool] = False

    def before_execution_starts(self, executor: Executor) -> None:
        """Do nothing."""

    def on_execution_step(self, executor: Executor) -> None:
        """Take the numbers of every actor pool, and of the tasks that read and commit."""
        if StageWatch.is_blind:
            return
        try:
            StageWatch.latest = _look(list(executor._topology))
        except AttributeError as error:
            StageWatch.latest, StageWatch.is_blind = Activity(), True
            LOG.warning("what the stages are doing is not shown, this version of Ray does not say it: %s", error)

    def after_execution_succeeds(self, executor: Executor) -> None:
        """Do nothing."""

    def after_execution_fails(self, executor: Executor, error: Exception) -> None:
        """Do nothing."""


def dataflow_activity() -> Activity:
    """Return what the running dataflow is doing."""
    return StageWatch.latest


def _look(operators: Sequence[Operator]) -> Activity:
    tasks = [operator for operator in operators if not _is_pool(operator)]
    return Activity(
        stages=tuple(_stages(operators)),
        reads=sum(operator.metrics.num_tasks_running for operator in tasks if COMMIT not in operator.name),
        writes=sum(operator.metrics.num_tasks_running for operator in tasks if COMMIT in operator.name),
    )


def _is_pool(operator: Operator) -> bool:
    actors = operator.get_actor_info()
    return bool(actors.running + actors.pending + actors.restarting)


def _stages(operators: Sequence[Operator]) -> Iterator[StageActivity]:
    for operator in filter(_is_pool, operators):
        actors, metrics = operator.get_actor_info(), operator.metrics
        yield StageActivity(
            name=operator.name.removeprefix("MapBatches(").removesuffix(")"),
            done=metrics.num_tasks_finished,
            working=metrics.num_tasks_running,
            waiting=metrics.num_external_inqueue_blocks + metrics.num_inputs_received - metrics.num_tasks_submitted,
            actors=actors.running,
            starting=actors.pending + actors.restarting,
        )
