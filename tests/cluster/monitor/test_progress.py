"""What is said of a run while it goes, from its markers."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import tiny_plan, tiny_results

from cluster.monitor.activity import Activity, StageActivity
from cluster.monitor.progress import MarkerFollower, Progress, Snapshot, describe, describe_stage, display, snapshot
from cluster.monitor.watchdog import Watchdog
from cluster.session.placement import Resources
from engine.plan.plan import Plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path
from engine.runfile.run import LimitsConfig
from engine.shards.marker import Counts, Marker
from engine.wording import duration

EDITOR = StageActivity(name="editor+verifier", done=1, working=2, waiting=3, actors=1, starting=1)


def activity() -> Activity:
    return Activity(stages=[EDITOR])


def watchdog(rundir: RunDirectory) -> Watchdog:
    enough = Resources(num_cpus=2, num_gpus=0, free_cpus=0, free_gpus=0)
    return Watchdog(LimitsConfig(), [], rundir.storage, activity, lambda: enough)


@pytest.fixture
def planned(tmp_path: Path) -> tuple[RunDirectory, Plan]:
    run, plan = tiny_plan(tmp_path)
    return RunDirectory.create(str(tmp_path / "run"), run, plan), plan


def commit(rundir: RunDirectory, plan: Plan, index: int) -> Marker:
    return commit_shard(rundir, index, plan.keys(index), tiny_results(plan, index), {"editor": 2.0, "verifier": 0.5})


def of_markers(rundir: RunDirectory, plan: Plan) -> Snapshot:
    return snapshot(rundir.read_markers(rundir.done()), plan.num_shards, plan.num_edited)


def test_a_new_run_has_nothing_done(planned: tuple[RunDirectory, Plan]) -> None:
    rundir, plan = planned
    state = of_markers(rundir, plan)
    assert describe(state) == "0/2 shards, 0/6 sources, accepted 0, rejected 0"


def test_counts_come_from_the_markers(planned: tuple[RunDirectory, Plan]) -> None:
    rundir, plan = planned
    commit(rundir, plan, 0)
    state = of_markers(rundir, plan)
    assert describe(state) == "1/2 shards, 3/6 sources, accepted 3, rejected 3, not processed 3"
    assert state.seconds == {"editor": 2.0, "verifier": 0.5}


def test_another_kind_of_machine_than_before_is_told_once(
    planned: tuple[RunDirectory, Plan], caplog: pytest.LogCaptureFixture
) -> None:
    rundir, plan = planned
    first = commit(rundir, plan, 0)
    here = replace(first, versions={**first.versions, "machine": "AMD EPYC (avx2)"})
    rundir.storage.write(marker_path(0), here.to_json())
    follower = MarkerFollower(rundir, plan.num_shards, plan.num_edited, [0])
    follower.poll()
    for shard in (1, 2):
        follower.add(replace(here, shard=shard, versions={**first.versions, "machine": "NVIDIA H200"}))
    follower.add(replace(here, shard=3))
    follower.poll()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("generate: shard 1 was made with machine NVIDIA H200, not AMD EPYC (avx2) as shard 0: ")


def test_the_rate_is_of_this_session_alone(planned: tuple[RunDirectory, Plan]) -> None:
    rundir, plan = planned
    commit(rundir, plan, 0)
    follower = MarkerFollower(rundir, plan.num_shards, plan.num_edited, rundir.done())
    assert follower.poll().rate is None
    follower.add(commit(rundir, plan, 1))
    state = follower.poll()
    assert state.done == 2
    assert state.rate is not None
    assert state.rate > 0
    assert state.seconds_left == 0
    assert describe(state).endswith("images/s")


def test_markers_of_earlier_sessions_are_read_with_the_looks_and_not_before(
    planned: tuple[RunDirectory, Plan], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rundir, plan = planned
    for index in (0, 1):
        commit(rundir, plan, index)
    read: list[str] = []
    monkeypatch.setattr(
        rundir.storage, "read", lambda path, read_it=rundir.storage.read: read.append(path) or read_it(path)
    )
    assert rundir.pending() == []
    follower = MarkerFollower(rundir, plan.num_shards, plan.num_edited, rundir.done())
    assert read == []
    assert follower.poll().counts.sources == 6
    assert read == ["done/000000.json", "done/000001.json"]
    follower.poll()
    assert len(read) == 2


def test_a_marker_that_cannot_be_read_is_said_and_the_display_goes_on(
    planned: tuple[RunDirectory, Plan], caplog: pytest.LogCaptureFixture
) -> None:
    rundir, plan = planned
    commit(rundir, plan, 0)
    rundir.storage.write("done/000001.json", b"{")
    state = MarkerFollower(rundir, plan.num_shards, plan.num_edited, rundir.done()).poll()
    assert (state.done, state.counts.sources) == (2, 3)
    assert "done/000001.json cannot be read" in caplog.text


def test_a_stage_is_one_line() -> None:
    assert describe_stage(EDITOR, 9, 75.2) == (
        "editor+verifier: 1/9 shards, 2 in work, 3 waiting, 1 actor, 1 starting, 1 min 15 s a shard"
    )


def test_without_a_terminal_the_last_line_says_it_all(
    planned: tuple[RunDirectory, Plan], caplog: pytest.LogCaptureFixture
) -> None:
    rundir, plan = planned
    follower = MarkerFollower(rundir, 2, 6)
    with caplog.at_level(logging.INFO), Progress(follower, activity, watchdog(rundir)):
        follower.add(commit(rundir, plan, 0))
    assert "generate: 1/2 shards, 3/6 sources, accepted 3, rejected 3" in caplog.text


def test_on_a_terminal_there_is_a_live_display(planned: tuple[RunDirectory, Plan]) -> None:
    import io

    from rich.console import Console

    rundir, plan = planned
    screen, follower = io.StringIO(), MarkerFollower(rundir, 2, 6)
    console = Console(file=screen, force_terminal=True, width=120)
    with Progress(follower, activity, watchdog(rundir), console) as progress:
        follower.add(commit(rundir, plan, 0))
        progress.show()
    assert "1/2 shards" in screen.getvalue()
    assert "editor+verifier: 1/2 shards" in screen.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_the_live_display_shows_all_in_any_width(width: int) -> None:
    import io

    from rich.console import Console

    counts = Counts(sources=96, accepted=310, rejected=Counter(dark=77), quarantined=Counter(unreadable=3))
    state = Snapshot(
        done=12, num_shards=50, num_sources=400, counts=counts, seconds={"editor": 75.2}, rate=12.3, seconds_left=3900
    )
    screen = io.StringIO()
    Console(file=screen, width=width).print(display(state, [EDITOR], "nothing was finished for 9 min", width))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) < width
    head = " 12/50 shards, 1 h 5 min left"
    assert lines[0].endswith(head)
    bar = lines[0].removesuffix(head)
    assert set(bar) == {"━", "─"}
    assert len(bar) == min(60, width - len(head) - 1)
    assert bar.count("━") == 12 * len(bar) // 50
    shown = " ".join(" ".join(lines[1:]).split())
    assert shown == (
        "96/400 sources, accepted 310, rejected 77, not processed 3, 12.3 images/s editor+verifier: 1/50 shards, 2 in "
        "work, 3 waiting, 1 actor, 1 starting, 1 min 15 s a shard nothing was finished for 9 min"
    )


def test_durations_are_for_people() -> None:
    assert [duration(seconds) for seconds in (0.42, 12.4, 200, 7500)] == ["0.42 s", "12 s", "3 min 20 s", "2 h 5 min"]
