"""The actor of one or more stages: applies them to whole shards and isolates samples that fail."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

import pandas as pd

from cluster.dataflow.blocks import from_block, to_block
from cluster.dataflow.isolation import ShardBisector
from cluster.dataflow.replies import check_replies
from cluster.dataflow.shard_row import ShardRow
from cluster.monitor.meters import StageMeter
from cluster.session.placement import group_placement
from cluster.session.worker import error_context, exit_without_teardown, kind_of_machine, load_with_retries
from engine.errors import EngineError, RunError
from engine.run.attempts import Attempts, Note, watched
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.runfile.stages import words_of_classes
from engine.sample import Rejection, Sample, Stage, sort_groups
from engine.storage.storage import Storage
from engine.verdicts.rule import is_early

# Texts of errors that pass by themselves: memory that another process on the GPU holds, and network failures.
TRANSIENT_ERRORS = [
    "out of memory",
    "Connection reset",
    "Connection aborted",
    "timed out",
    "SlowDown",
    "429 Client Error",
]
# Attempts at a whole shard before it is bisected. The first deaths may be those of machines.
WHOLE_ATTEMPTS = 2


class StageGroup:
    """Apply the stages that share one actor to whole shards; rejections are passed through unchanged.

    It records in `storage` which shard it is working on, so that a sample that kills the actor is found and
    quarantined. `classes` are the names of the run's classes.
    """

    def __init__(self, run: RunFile, group: Sequence[str], storage: Storage, *, classes: Sequence[str] = ()) -> None:
        # Not at the top: the driver and the tasks that read and commit shards have no need of torch.
        from actors.build import build_stage

        exit_without_teardown()
        placement = group_placement(run, group)
        configs = {name: run.stages[name].model_copy(update={"placement": placement}) for name in group}
        self.name = "+".join(group)
        self.perturbers = [name for name, config in configs.items() if isinstance(config, PerturberConfig)]
        self.attempts = Attempts(storage=storage, where=self.name)
        self.meter = StageMeter(run.name, self.name)
        self.sample_s = run.limits.sample_s
        self.stages: dict[str, Stage] = {}
        self.failure: EngineError | None = None
        self.machine = kind_of_machine(on_gpu=placement.num_gpus > 0)
        try:
            for name, config in configs.items():
                build = partial(
                    build_stage,
                    config,
                    name=name,
                    seed=run.seed,
                    offline=run.offline,
                    classes=classes,
                    words=words_of_classes(run.stages),
                )
                self.stages[name] = load_with_retries(f"the start of stage {name!r}", build)
        except EngineError as error:
            # Raised at the first shard instead: after an error in a constructor Ray restarts the actor again and again.
            self.failure = error

    def __call__(self, block: pd.DataFrame) -> pd.DataFrame:
        """Return the block with its samples processed."""
        if self.failure is not None:
            raise self.failure
        row = from_block(block)
        note = self.attempts.begin(row.shard)
        self.meter.record_begin(note.begun)
        is_whole = note.begun <= WHOLE_ATTEMPTS
        try:
            done = self._apply(row) if is_whole else self._bisect(row, note)
        except EngineError:
            raise
        except Exception as error:
            if is_whole and any(text in str(error) for text in TRANSIENT_ERRORS):
                raise
            done = self._bisect(row, note)
        self.attempts.end(row.shard)
        for name in self.perturbers:
            with error_context(f"stage {name!r} on shard {row.shard}"):
                check_replies(name, done, self.attempts.storage)
        return to_block(replace(done, machines=row.machines | {self.machine}))

    def _apply(self, row: ShardRow) -> ShardRow:
        for name, stage in self.stages.items():
            before = _calls(name, stage)
            row = apply_stage(name, self.meter.timed(name, self._with_limit(stage, row)), row)
            row = replace(row, calls=dict(Counter(row.calls) + (_calls(name, stage) - before)))
        return row

    def _with_limit(self, stage: Stage, row: ShardRow) -> Stage:
        limit_s, stack_dump = self.sample_s * max(len(row.samples), 1), self.attempts.last_words(row.shard)
        return lambda batch: watched(stage(batch), limit_s, stack_dump)

    def _bisect(self, row: ShardRow, note: Note) -> ShardRow:
        return ShardBisector(
            row=row, apply=self._apply, where=self.name, sample_s=self.sample_s, note=note, attempts=self.attempts
        ).run()


def _calls(name: str, stage: Stage) -> Counter[str]:
    """Return how often a stage has called its models so far, if it counts that."""
    calls = getattr(stage, "calls", None) or {}
    return Counter({f"{name}.{what}": int(count) for what, count in calls.items()})


def apply_stage(name: str, stage: Stage, row: ShardRow) -> ShardRow:
    """Return the shard after one stage, with the stage's seconds, which add up over its parts.

    Edits that were stopped early have no image and are passed through unchanged.
    """
    start = perf_counter()
    dropped = [sample for sample in row.samples if is_early(sample.verdict)]
    samples: list[Sample] = []
    rejections = list(row.rejections)
    with error_context(f"stage {name!r} on shard {row.shard}"):
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
