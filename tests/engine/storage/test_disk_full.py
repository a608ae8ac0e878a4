"""A disk that is full stops a run with what it needs; after it has space the run ends with the same bytes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from repository import PYTHONPATH, ROOT
from tint_runs import NUM_SHARDS, contents, make_in_process, tint_run, write_images

from engine.audit.files import verify_run
from engine.runfile.load import dump_run_file

# A file system of its own, which only these processes see.
SCRIPT = """
set -e
mount -t tmpfs -o size={size} tmpfs {disk}
go() {{ {python} -m cluster.cli.main "$@" && echo "code 0" || echo "code $?"; }}
go generate {run} --out {disk}/run
go verify {disk}/run
mount -o remount,size=64m {disk}
go generate {run} --out {disk}/run
cp -r {disk}/run {copy}
"""


def can_mount() -> bool:
    return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a file system of his own")
def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images"), grouped=True)
    run_file, disk, copy = tmp_path / "run.yaml", tmp_path / "disk", tmp_path / "copy"
    run_file.write_text(dump_run_file(run))
    disk.mkdir()
    calm = make_in_process(run, tmp_path / "calm", range(NUM_SHARDS))
    # All that a run writes but for two of its shards.
    size = sum(path.stat().st_size for path in (tmp_path / "calm").rglob("*.*")) // 2
    script = SCRIPT.format(size=size, disk=disk, run=run_file, copy=copy, python=sys.executable)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    codes = re.findall(r"code (\d)", done.stdout)
    # What is done is whole.
    assert codes == ["1", "0", "0"], done.stdout + done.stderr
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("counterforge:"))
    assert re.search(r"cannot write .*: No space left on device: free some space, then .* goes on where", message)
    assert re.search(r"\d shards are left, which need about [\d.]+ [KM]B$", message), message
    assert "Traceback" not in done.stderr
    assert contents(copy) == contents(tmp_path / "calm")
    assert verify_run(calm) == []
