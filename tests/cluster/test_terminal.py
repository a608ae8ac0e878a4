"""What reaches the terminal: text of users cannot steer it, and credentials do not show."""

import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from repository import PYTHONPATH
from rich.console import Console
from tiny_runs import picture, tiny_plan

from cluster.cli.main import main, start_logging
from cluster.cli.options import live_console
from cluster.monitor.activity import Activity, StageActivity
from cluster.monitor.progress import MarkerFollower, Progress
from cluster.monitor.watchdog import Watchdog
from cluster.session.placement import Resources
from cluster.terminal import plain_output, shown
from engine.run.directory import RunDirectory
from engine.wording import DASH, MINUS, THIN

# Clears the screen, sets the window's title, writes over the line, turns the direction of writing.
STEERING = "\x1b[2J\x1b]0;mine\x07\r\x9b31m\u202e"
SEEN = r"\x1b[2J\x1b]0;mine\x07\r\x9b31m\u202e"


@contextmanager
def own_logging() -> Iterator[None]:
    """Log as the program does, not as pytest does."""
    root, handlers = logging.getLogger(), logging.getLogger().handlers[:]
    root.handlers.clear()
    try:
        start_logging(verbose=True)
        yield
    finally:
        root.handlers[:] = handlers


def test_control_characters_are_shown_as_escapes_and_text_stays() -> None:
    assert shown(f"a {STEERING} cat\n\tund ein Kätzchen 猫 ❄") == f"a {SEEN} cat\n\tund ein Kätzchen 猫 ❄"


def test_all_that_is_printed_is_shown_so(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_output():
        print(f"class {STEERING} of s3://me:pass%2Fword@bucket")
    print("\x1b")
    assert capsys.readouterr().out == f"class {SEEN} of s3://***@bucket\n\x1b\n"


def test_a_class_folder_cannot_steer_the_terminal_of_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "\x1b[2J\x1b[31mdog"):
        path = tmp_path / "images" / name / "1.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture((90, 10, 10)))
    (tmp_path / "run.yaml").write_text(
        "name: x\ndata: {train: {kind: folder, path: images}, splits: {train: 1.0, validation: 0.0, test: 0.0}}\n"
        "stages: {captioner: {kind: captioner, model: {name: zoo/captioner}}}\nprobe: {model: {name: zoo/patient}}\n"
    )
    assert main(["plan", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]) == 2  # no test image
    printed = capsys.readouterr()
    assert r"\x1b[2J\x1b[31mdog" in printed.out
    assert "\x1b" not in printed.out + printed.err


def test_an_error_cannot_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text('name: "\\e[2Jx"\n')
    assert main(["plan", str(tmp_path / "run.yaml")]) == 2
    said = capsys.readouterr().err
    assert "x1b[2Jx" in said
    assert "\x1b" not in said


def test_log_lines_and_tracebacks_cannot_either(capsys: pytest.CaptureFixture[str]) -> None:
    with own_logging():
        try:
            raise ValueError(f"{STEERING} at https://me:password@host")
        except ValueError:
            logging.getLogger("engine.sources").warning("skipped %s", STEERING, exc_info=True)
    said = capsys.readouterr().err
    assert said.count(SEEN) == 2
    assert "https://***@host" in said
    assert not {"\x1b", "\x9b", "\u202e"} & set(said)


def test_a_terminal_that_is_not_utf_8_shows_tables_with_plain_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    table = f"1{THIN}200 images {MINUS}0.4 {DASH} Kätzchen 猫 → ≥ ━─ \udce9"
    for encoding, seen in (
        ("ascii", rb"1 200 images -0.4 - K\xe4tzchen \u732b -> >= #- \udce9"),
        ("latin-1", b"1 200 images -0.4 - K\xe4tzchen \\u732b -> >= #- \\udce9"),
        ("utf-8", f"1{THIN}200 images {MINUS}0.4 {DASH} Kätzchen 猫 → ≥ ━─ \\udce9".encode()),
    ):
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)
        with plain_output():
            print(table)
            print(table, file=sys.stderr)
        for stream in streams.values():
            stream.flush()
            assert stream.buffer.getvalue() == seen + b"\n"  # type: ignore[attr-defined]


def test_plan_is_the_same_table_on_a_terminal_that_is_not_utf_8(tmp_path: Path) -> None:
    for name in ("cat", "Kätzchen"):
        path = tmp_path / "images" / name / "1.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture((90, 10, 10)))
    (tmp_path / "run.yaml").write_text(
        "name: x\ndata: {train: {kind: folder, path: images}, splits: {train: 1.0, validation: 0.0, test: 0.0}}\n"
        "stages: {captioner: {kind: captioner, model: {name: zoo/captioner}}}\nprobe: {model: {name: zoo/patient}}\n"
    )
    command = [sys.executable, "-m", "cluster.cli.main", "plan", str(tmp_path / "run.yaml"), "--out", str(tmp_path)]
    seen = {}
    for encoding in ("utf-8", "ascii"):
        environment = os.environ | {"PYTHONPATH": PYTHONPATH, "PYTHONIOENCODING": encoding}
        made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert b"Traceback" not in made.stderr
        seen[encoding] = made.stdout.decode(encoding)
    assert len(seen["utf-8"].splitlines()) > 5
    plain = seen["utf-8"].replace(THIN, " ").replace(DASH, "-").replace(MINUS, "-").replace("ä", "\\xe4")
    assert seen["ascii"] == plain


def test_a_stop_from_outside_ends_with_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            monkeypatch.setattr("cluster.cli.inspect.print_json", lambda _, number=number: os.kill(os.getpid(), number))
            assert main(["schema"]) == code
            assert capsys.readouterr().err.startswith("counterforge: stopped. Finished shards are kept")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_no_live_display_for_a_terminal_that_cannot_move_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert live_console() is None
    monkeypatch.setenv("TERM", "xterm")
    assert live_console() is not None


def test_a_stage_s_name_cannot_steer_the_live_display(tmp_path: Path) -> None:
    run, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    follower = MarkerFollower(rundir, plan.num_shards, plan.num_edited)
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=200)
    stage = StageActivity(name=f"mine{STEERING}", done=0, working=1, waiting=0, actors=1, starting=0)
    activity = Activity(stages=[stage])
    enough = Resources(num_cpus=2, num_gpus=0, free_cpus=0, free_gpus=0)
    watchdog = Watchdog(run.limits, [], rundir.storage, lambda: activity, lambda: enough)
    with Progress(follower, lambda: activity, watchdog, console) as progress:
        progress.show()
    assert SEEN in output.getvalue()
    assert "\x1b[2J" not in output.getvalue()
    assert "\x1b]0;" not in output.getvalue()
