"""The progress of a run, from its markers alone, and its display: a live table or plain log lines."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from queue import SimpleQueue
from textwrap import wrap
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from cluster.monitor.activity import Activity, StageActivity
from cluster.terminal import shown
from engine.errors import EngineError
from engine.interrupt import interruptible
from engine.run.directory import NUM_READERS
from engine.shards.marker import Counts, Marker, Tally, describe_change
from engine.wording import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from cluster.monitor.meters import RunMeter
    from cluster.monitor.watchdog import Watchdog
    from engine.run.directory import RunDirectory

LOG = logging.getLogger(__name__)
POLL_S = 1.0
# Plain lines: at most one report in MIN_LINE_S, at least one in MAX_LINE_S.
MIN_LINE_S = 15.0
MAX_LINE_S = 120.0
UNBROKEN = "\u00a0"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a run. `seconds` are the mean of one shard by stage; `rate` is in candidates a second.

    `rate` and `seconds_left` are None until a shard was finished in this session. `num_uncounted` of the shards that
    are done are not in the counts yet.
    """

    done: int
    num_shards: int
    num_sources: int
    counts: Counts
    seconds: Mapping[str, float]
    num_uncounted: int = 0
    rate: float | None = None
    seconds_left: float | None = None


def snapshot(markers: Iterable[Marker], num_shards: int, num_sources: int) -> Snapshot:
    """Return the sum of the markers, which may come from a generator."""
    tally = Tally()
    for marker in markers:
        tally.add(marker)
    return _snapshot(tally, num_shards, num_sources)


def describe(state: Snapshot) -> str:
    """Return the state of a run as one line."""
    return ", ".join([_shards(state), *_counts(state), *_left(state)])


def _shards(state: Snapshot) -> str:
    return f"{state.done}/{state.num_shards} shards"


def _left(state: Snapshot) -> list[str]:
    return [f"{duration(state.seconds_left)} left"] if state.seconds_left else []


def _counts(state: Snapshot) -> list[str]:
    counts = state.counts
    parts = [
        f"{counts.sources}/{state.num_sources} sources",
        f"accepted {counts.accepted}",
        f"rejected {sum(counts.rejected.values())}",
    ]
    if failed := sum(counts.quarantined.values()):
        parts.append(f"not processed {failed}")
    if state.num_uncounted:
        parts.append(f"{state.num_uncounted} shards done before not counted yet")
    if state.rate is not None:
        parts.append(f"{state.rate:.1f} images/s")
    return parts


def describe_stage(stage: StageActivity, num_shards: int, mean: float | None) -> str:
    """Return the state of one stage as one line; `mean` is its seconds a shard."""
    parts = [f"{stage.done}/{num_shards} shards", f"{stage.working} in work", f"{stage.waiting} waiting"]
    parts.append(f"{stage.actors} actor{'' if stage.actors == 1 else 's'}")
    if stage.starting:
        parts.append(f"{stage.starting} starting")
    if mean is not None:
        parts.append(f"{duration(mean)} a shard")
    return f"{stage.name}: {', '.join(parts)}"


class MarkerFollower:
    """Sum the markers of a run as they are added, and measure their rate; the meter counts them too.

    The markers of shards that were done `before` are read in small parts, some at each poll: there may be a hundred
    thousand, and nothing waits for their sum. Each difference in versions or kind of machine between shards is logged
    once.
    """

    def __init__(
        self,
        rundir: "RunDirectory",
        num_shards: int,
        num_sources: int,
        before: Sequence[int] = (),
        meter: "RunMeter | None" = None,
    ) -> None:
        self._rundir, self._num_shards, self._num_sources = rundir, num_shards, num_sources
        self.meter = meter
        self._num_before = len(before)
        self._unread = deque(before)
        self._added: SimpleQueue[Marker] = SimpleQueue()
        self._all, self._new = Tally(), Tally()
        self._first: Marker | None = None
        self._changes: set[str] = set()
        self._start = monotonic()

    def add(self, marker: Marker) -> None:
        """Add the marker of a shard that was just committed; from any thread."""
        self._added.put(marker)

    def poll(self) -> Snapshot:
        """Return the state, with the markers that were added since the last call."""
        while not self._added.empty():
            marker = self._added.get()
            self._count(marker)
            self._new.add(marker)
            if self.meter is not None:
                self.meter.record_commit(marker)
        self._read_some()
        done, elapsed = self._num_before + self._new.num_markers, monotonic() - self._start
        num_new, num_left = self._new.num_markers, self._num_shards - done
        return replace(
            _snapshot(self._all, self._num_shards, self._num_sources),
            done=done,
            num_uncounted=len(self._unread),
            rate=self._new.counts.candidates / elapsed if num_new else None,
            seconds_left=elapsed / num_new * num_left if num_new else None,
        )

    def _read_some(self) -> None:
        """Read markers of earlier sessions for half of the time between two polls."""
        end = monotonic() + POLL_S / 2
        while self._unread and monotonic() < end:
            chunk = [self._unread.popleft() for _ in range(min(len(self._unread), NUM_READERS))]
            try:
                for marker in self._rundir.read_markers(chunk):
                    self._count(marker)
            except EngineError as error:
                LOG.warning("generate: %s", error)

    def _count(self, marker: Marker) -> None:
        self._all.add(marker)
        self._first = self._first or marker
        change = describe_change(self._first.versions, marker.versions)
        if change is None or change in self._changes:
            return
        self._changes.add(change)
        LOG.warning(
            "generate: shard %d was made with %s as shard %d: images may differ in their last bits from those of a run "
            "on one kind of machine with one set of versions",
            marker.shard,
            change,
            self._first.shard,
        )


class Progress:
    """Show a run's state from a background thread while the body of the `with` works.

    With a console it is a live display, without one log lines. Where the watchdog finds that the run should end, the
    main thread is interrupted, and `ended` is the reason. The follower's meter records the numbers that are shown.
    """

    def __init__(
        self,
        follower: MarkerFollower,
        activity: Callable[[], Activity],
        watchdog: "Watchdog",
        console: "Console | None" = None,
    ) -> None:
        self.ended: str | None = None
        self._follower, self._activity, self._watchdog = follower, activity, watchdog
        self._console, self._meter = console, follower.meter
        self._live: Live | None = None
        self._stop = Event()
        self._thread = Thread(target=self._follow, name="progress", daemon=True)
        self._stack = ExitStack()
        self._done = -1
        self._changed = self._logged = monotonic()

    def __enter__(self) -> "Progress":
        """Start the thread and the display."""
        self._interrupt = self._stack.enter_context(interruptible())
        if self._console is not None:
            from rich.live import Live

            live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live = self._stack.enter_context(live)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and log the final state."""
        self._stop.set()
        self._thread.join()
        self._stack.close()
        state = self._follower.poll()
        self._record(state, Activity())
        LOG.info("generate: %s", describe(state))

    def show(self) -> None:
        """Poll the markers and update the display; log a line if one is due."""
        state, activity = self._follower.poll(), self._activity()
        self._record(state, activity)
        stages, now = activity.stages, monotonic()
        if state.done != self._done:
            self._done, self._changed = state.done, now
        finding = self._watchdog.look(now - self._changed)
        why = None if finding is None else finding.text
        if self._live is not None:
            self._live.update(display(state, stages, why, self._live.console.width), refresh=True)
        elif self._is_due(now):
            self._logged = now
            for line in report_lines(state, stages, why):
                LOG.info("%s", line)
        if finding is not None and finding.ends and self.ended is None:
            self.ended = finding.text
            # The main thread waits for a dataflow that makes no progress.
            self._interrupt()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            self.show()

    def _record(self, state: Snapshot, activity: Activity) -> None:
        if self._meter is not None:
            self._meter.record_progress(state.done, state.num_shards - state.done, state.seconds_left, activity)

    def _is_due(self, now: float) -> bool:
        quiet = now - self._logged
        return quiet >= MAX_LINE_S or (quiet >= MIN_LINE_S and self._changed > self._logged)


def report_lines(state: Snapshot, stages: Sequence[StageActivity], why: str | None = None) -> list[str]:
    """Return the lines of a run's state: the run, each stage, and `why` nothing was finished for long."""
    lines = [f"generate: {describe(state)}", *stage_lines(state, stages)]
    return lines if why is None else [*lines, f"  {why}"]


def stage_lines(state: Snapshot, stages: Sequence[StageActivity]) -> Iterator[str]:
    """Yield the state of each stage as a line."""
    for stage in stages:
        times = [state.seconds[name] for name in stage.name.split("+") if name in state.seconds]
        yield f"  {describe_stage(stage, state.num_shards, sum(times) if times else None)}"


def display(state: Snapshot, stages: Sequence[StageActivity], why: str | None, width: int) -> "RenderableType":
    """Return the live display: a bar with the shards and the time left, then lines that are wrapped, never cut."""
    from rich.text import Text

    head = ", ".join([_shards(state), *_left(state)])
    bar = max(8, min(60, width - len(head) - 2))
    done = bar * state.done // max(state.num_shards, 1)
    lines = [", ".join(_counts(state)), *stage_lines(state, stages)]
    # Broken at commas alone. One column is left free: some terminals begin a new line in the last one.
    kept = [shown(line).replace(" ", UNBROKEN).replace(f",{UNBROKEN}", ", ") for line in lines]
    texts = [*kept, *([] if why is None else [shown(why)])]
    wrapped = [part for text in texts for part in wrap(text, width - 1, subsequent_indent="    ")]
    first = Text.assemble(("━" * done, "green"), ("─" * (bar - done), "dim"), f" {head}\n")
    return first + Text("\n".join(wrapped).replace(UNBROKEN, " "), no_wrap=True)


def _snapshot(tally: Tally, num_shards: int, num_sources: int) -> Snapshot:
    return Snapshot(
        done=tally.num_markers,
        num_shards=num_shards,
        num_sources=num_sources,
        counts=tally.counts,
        seconds=tally.mean_seconds(),
    )
