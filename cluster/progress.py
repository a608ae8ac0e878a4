"""What a run has done so far, read from its markers alone, and how that is shown: a live table or plain log lines."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from engine.marker import Counts, Marker, add_counts

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from engine.rundir import RunDirectory

LOG = logging.getLogger(__name__)
POLL_S = 1.0
# Plain lines: at most one report in this time, and one at least in that, so that a log shows life and stays short.
MIN_LINE_S = 15.0
MAX_LINE_S = 120.0
STUCK_S = 600.0


@dataclass(frozen=True, kw_only=True)
class StageActivity:
    """Say what one actor pool is doing: shards done, worked on and waiting; actors ready and starting."""

    name: str
    done: int
    working: int
    waiting: int
    actors: int
    starting: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Hold the state of a run: `rate` in candidates a second and `seconds_left` are None until a shard was timed."""

    done: int
    num_shards: int
    num_sources: int
    counts: Counts
    seconds: Mapping[str, float]
    rate: float | None = None
    seconds_left: float | None = None


def snapshot(markers: Mapping[int, Marker], num_shards: int, num_sources: int) -> Snapshot:
    """Return what the markers say; `seconds` are the mean of one shard by stage."""
    stages = list(dict.fromkeys(stage for marker in markers.values() for stage in marker.seconds))
    mean = {
        stage: sum(marker.seconds.get(stage, 0.0) for marker in markers.values()) / len(markers) for stage in stages
    }
    return Snapshot(
        done=len(markers), num_shards=num_shards, num_sources=num_sources, counts=add_counts(markers), seconds=mean
    )


def describe(state: Snapshot) -> str:
    """Return a run's state as one line."""
    counts = state.counts
    parts = [
        f"{state.done}/{state.num_shards} shards",
        f"{counts.sources}/{state.num_sources} sources",
        f"accepted {counts.accepted}",
        f"rejected {sum(counts.rejected.values())}",
    ]
    if failed := sum(counts.quarantined.values()):
        parts.append(f"not processed {failed}")
    if state.rate is not None:
        parts.append(f"{state.rate:.1f} images/s")
    if state.seconds_left:
        parts.append(f"{duration(state.seconds_left)} left")
    return ", ".join(parts)


def describe_stage(stage: StageActivity, num_shards: int, mean: float | None) -> str:
    """Return what one stage is doing as one line."""
    parts = [f"{stage.done}/{num_shards} shards", f"{stage.working} in work", f"{stage.waiting} waiting"]
    parts.append(f"{stage.actors} actor{'' if stage.actors == 1 else 's'}")
    if stage.starting:
        parts.append(f"{stage.starting} starting")
    if mean is not None:
        parts.append(f"{duration(mean)} a shard")
    return f"{stage.name}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Return seconds for a person: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class MarkerFollower:
    """Read each marker once, and say what is there and how fast it came."""

    def __init__(self, rundir: "RunDirectory", num_shards: int, num_sources: int) -> None:
        self._rundir = rundir
        self._num_shards = num_shards
        self._num_sources = num_sources
        self._markers: dict[int, Marker] = dict(rundir.markers())
        self._first = set(self._markers)
        self._start = monotonic()

    def poll(self) -> Snapshot:
        """Return the state with the markers that came since the last call."""
        for index in self._rundir.done():
            if index not in self._markers:
                self._markers[index] = self._rundir.marker(index)
        state = snapshot(self._markers, self._num_shards, self._num_sources)
        new = {index: marker for index, marker in self._markers.items() if index not in self._first}
        if not new:
            return state
        elapsed = monotonic() - self._start
        return Snapshot(
            done=state.done,
            num_shards=state.num_shards,
            num_sources=state.num_sources,
            counts=state.counts,
            seconds=state.seconds,
            rate=add_counts(new).candidates / elapsed,
            seconds_left=elapsed / len(new) * (state.num_shards - state.done),
        )


class Progress:
    """Show a run's state from a thread of its own while the body of the `with` works.

    With a console it is a live display; without one it is log lines.
    """

    def __init__(
        self,
        follower: MarkerFollower,
        activity: Callable[[], Sequence[StageActivity]],
        console: "Console | None" = None,
    ) -> None:
        self._follower = follower
        self._activity = activity
        self._console = console
        self._live: Live | None = None
        self._stop = Event()
        self._thread = Thread(target=self._follow, name="progress", daemon=True)
        self._done = -1
        self._changed = self._said = monotonic()

    def __enter__(self) -> "Progress":
        """Start to show."""
        if self._console is not None:
            from rich.live import Live

            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, with one last line of the final state."""
        self._stop.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()
        LOG.info("generate: %s", describe(self._follower.poll()))

    def show(self) -> None:
        """Read the markers and show the state, if it is time for another line."""
        state, stages = self._follower.poll(), self._activity()
        now = monotonic()
        if state.done != self._done:
            self._done, self._changed = state.done, now
        if self._live is not None:
            self._live.update(_table(state, stages, now - self._changed), refresh=True)
        elif self._is_due(now):
            self._said = now
            for line in report_lines(state, stages, now - self._changed):
                LOG.info("%s", line)

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            self.show()

    def _is_due(self, now: float) -> bool:
        silent = now - self._said
        return silent >= MAX_LINE_S or (silent >= MIN_LINE_S and self._changed > self._said)


def report_lines(state: Snapshot, stages: Sequence[StageActivity], idle_s: float) -> list[str]:
    """Return the state of a run and of each of its stages, and a warning where nothing has been finished for long."""
    lines = [f"generate: {describe(state)}"]
    for stage in stages:
        times = [state.seconds[name] for name in stage.name.split("+") if name in state.seconds]
        lines.append(f"  {describe_stage(stage, state.num_shards, sum(times) if times else None)}")
    if idle_s > STUCK_S:
        waiting = [stage.name for stage in stages if stage.starting and not stage.actors]
        cause = f"no actor of {', '.join(waiting)} has started yet" if waiting else "the stages above are still at work"
        lines.append(f"  no shard was finished for {duration(idle_s)}: {cause}")
    return lines


def _table(state: Snapshot, stages: Sequence[StageActivity], idle_s: float) -> "RenderableType":
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    lines = [Text(line, overflow="ellipsis", no_wrap=True) for line in report_lines(state, stages, idle_s)]
    return Group(ProgressBar(total=max(state.num_shards, 1), completed=state.done, width=60), *lines)
