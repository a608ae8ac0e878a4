"""Bisect a failing shard and quarantine the sample that crashes the worker, hangs or makes a stage raise.

First each group (a source with its edits) alone; then, in the failing group, each sample with its source. Results do
not depend on the other samples of a shard, so the rest of it has the bytes that it would have had.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from cluster.dataflow.shard_row import ShardRow
from cluster.session.worker import last_line
from engine.errors import EngineError
from engine.run.attempts import STRIKES, Attempts, Note
from engine.sample import Rejection, Sample

RAISED, DIED, TIMED_OUT, NO_SOURCE = "stage_error", "worker_died", "timed_out", "no_source"
Apply = Callable[[ShardRow], ShardRow]


@dataclass
class ShardBisector:
    """Apply the stages to one shard in parts; `where` names the stages in the rejections."""

    row: ShardRow
    apply: Apply
    where: str
    sample_s: float
    attempts: Attempts
    note: Note = field(default_factory=Note)
    # Results so far, the rejections of earlier stages first.
    samples: list[Sample] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    num_good: int = 0
    error: Exception | None = None

    def run(self) -> ShardRow:
        """Return the shard after the stages; raise their error if none of several parts succeeded."""
        self.rejections = list(self.row.rejections)
        groups = [list(members) for _, members in groupby(self.row.samples, key=lambda sample: sample.source_key)]
        for group in self._ordered(groups):
            self._group(group)
        if self.error is not None and not self.num_good and len(groups) > 1:
            raise self.error
        return replace(self.row, samples=self.samples, rejections=self.rejections)

    def _ordered(self, groups: Sequence[list[Sample]]) -> list[list[Sample]]:
        """Order the groups: one healthy, then the suspects, then the rest.

        Suspects early, because every group before them is repeated when the worker dies; not first, because a worker's
        first call is slow, and a slow call is more often hit by the loss of a machine.
        """
        suspect = [group for group in groups if any(self.note.strikes.get(name) for name in _names(group))]
        others = [group for group in groups if group not in suspect]
        return [*others[:1], *suspect, *others[1:]]

    def _group(self, group: Sequence[Sample]) -> None:
        name = f"group {group[0].source_key}"
        if len(group) > 1 and not self.note.strikes.get(name):
            found = self._attempt(name, group)
            if isinstance(found, ShardRow):
                return self._keep(found)
        return self._samples(group)

    def _samples(self, group: Sequence[Sample]) -> None:
        """Process the source of a group alone, then each other sample together with it."""
        source = next((sample for sample in group if sample.role == "source"), None)
        if source is not None:
            found = self._alone(source, [source])
            if isinstance(found, Rejection):
                self.rejections.append(found)
                self.rejections += [
                    replace(found, key=sample.key, reason=NO_SOURCE, detail=f"its source was given up: {found.reason}")
                    for sample in group
                    if sample is not source
                ]
                return
            self._keep(found)
        for sample in group:
            if sample is source:
                continue
            found = self._alone(sample, [sample] if source is None else [source, sample])
            if isinstance(found, Rejection):
                self.rejections.append(found)
            else:
                self._keep(found, without=None if source is None else source.key)

    def _keep(self, found: ShardRow, without: str | None = None) -> None:
        self.num_good += 1
        self.samples += [sample for sample in found.samples if sample.key != without]
        self.rejections += [each for each in found.rejections if each.key != without]
        self.row = replace(self.row, seconds=found.seconds, calls=found.calls)

    def _alone(self, sample: Sample, unit: Sequence[Sample]) -> ShardRow | Rejection:
        name = f"sample {sample.key}"
        strikes, stuck = self.note.strikes.get(name, 0), self.note.stuck.get(name)
        if strikes >= STRIKES:
            limit_s = self.sample_s * len(unit)
            how = f"ran for longer than {limit_s:g} s, in {stuck}" if stuck else "ended: out of memory, or a crash"
            detail = f"{strikes} workers that had this sample alone at work {how}"
            return self._rejection(sample, TIMED_OUT if stuck else DIED, detail)
        found = self._attempt(name, unit)
        if isinstance(found, Exception):
            return self._rejection(sample, RAISED, f"{type(found).__name__}: {last_line(str(found))}")
        return found

    def _attempt(self, name: str, unit: Sequence[Sample]) -> ShardRow | Exception:
        """Return the unit after the stages, or their error; an EngineError, which concerns the whole run, is raised."""
        self.note = self.attempts.narrow(self.row.shard, self.note, name)
        try:
            return self.apply(replace(self.row, samples=list(unit), rejections=[]))
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001 a stage may raise anything, and one sample must not fail the others
            self.error = error
            return error
        finally:
            self.note = self.attempts.narrow(self.row.shard, self.note, None)

    def _rejection(self, sample: Sample, reason: str, detail: str) -> Rejection:
        return Rejection(key=sample.key, source_key=sample.source_key, stage=self.where, reason=reason, detail=detail)


def _names(group: Sequence[Sample]) -> list[str]:
    return [f"group {group[0].source_key}", *(f"sample {sample.key}" for sample in group)]
