"""The folder of Ray's sockets: TMPDIR, or a shorter one; what cannot work is said before Ray starts."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from repository import PYTHONPATH

from cluster.doctor import examine
from cluster.session.temporary import MAX_SOCKET_BYTES, SOCKET, RayFolder, ray_folder
from engine.errors import PlacementError

ROOM = MAX_SOCKET_BYTES - len("/ray" + SOCKET)
PROBE = """
from cluster.session.session import ray_session
with ray_session([]):
    import ray
    node = ray._private.worker._global_node
    print(node.get_session_dir_path(), node._fallback_directory)
"""


@pytest.fixture(autouse=True)
def no_other_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)


def long_folder(parent: Path, length: int) -> str:
    folder = parent / ("x" * (length - len(str(parent)) - 1))
    folder.mkdir()
    return str(folder)


def test_it_is_that_of_ray_where_its_sockets_have_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ray_folder() == RayFolder(path="/tmp/ray")
    short = Path("/tmp") / f"cf{os.getpid()}"
    short.mkdir()
    try:
        fits, too_long = long_folder(short, ROOM), long_folder(short, ROOM + 1)
        monkeypatch.setenv("TMPDIR", fits)
        assert ray_folder() == RayFolder(path=f"{fits}/ray")
        monkeypatch.setenv("TMPDIR", too_long)
        note = f"TMPDIR={too_long} has {ROOM + 1} bytes, Ray's sockets leave room for {ROOM}: they and Ray's logs go to"
        assert ray_folder() == RayFolder(path="/tmp/ray", spill=f"{too_long}/ray", note=f"{note} /tmp/ray")
    finally:
        shutil.rmtree(short)


def test_a_folder_that_cannot_be_used_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", "/proc/none")
    with pytest.raises(PlacementError, match=r"^TMPDIR=/proc/none: Ray cannot write in /proc .*RAY_TMPDIR=/tmp$"):
        ray_folder()
    (check,) = [check for check in examine() if check.name == "ray folder"]
    assert check.state == "failed"
    assert check.remedy == "set RAY_TMPDIR to a folder that can be written, such as RAY_TMPDIR=/tmp"
    monkeypatch.setenv("RAY_TMPDIR", long_folder(tmp_path, 200))
    with pytest.raises(PlacementError, match=rf"has 200 bytes, Ray's sockets leave room for {ROOM}: set a shorter one"):
        ray_folder()
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=4000))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with pytest.raises(PlacementError, match=r"RAY_TMPDIR=/tmp: /tmp(/ray)? has 4\.0 KB free, Ray's logs need more"):
        ray_folder()


@pytest.mark.slow
def test_a_session_starts_below_a_long_folder_and_spills_there(tmp_path: Path) -> None:
    folder = long_folder(tmp_path, 150)
    environment = os.environ | {"TMPDIR": folder, "PYTHONPATH": PYTHONPATH}
    made = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    session, spill = made.stdout.split()
    assert session.startswith("/tmp/ray/session_")
    assert spill == f"{folder}/ray"
    assert f"has 150 bytes, Ray's sockets leave room for {ROOM}: they and Ray's logs go to /tmp/ray" in made.stderr
