"""A local Ray session is reached from this machine alone, and only by who has its token."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.session.session import ray_session

LOOPBACK = ("127.", "::1", "::ffff:127.")
JOIN = "import ray; ray.init({address!r}, log_to_driver=False); print('joined')"
# Answers of this kind are given at once, where ray.init asks again for 20 s.
CALL = (
    "from ray._raylet import GcsClient; "
    "print('joined', GcsClient(address={address!r}).internal_kv_keys(b'', namespace=None, timeout=5))"
)


def listening() -> dict[str, list[str]]:
    """Return the addresses on which this process and those that it started listen, by their names."""
    found: dict[str, list[str]] = {}
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        for socket in process.net_connections("inet"):
            if socket.status == psutil.CONN_LISTEN:
                found.setdefault(process.name(), []).append(socket.laddr.ip)
    return found


def answer(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_session_listens_on_the_loopback_alone_and_refuses_who_has_no_token() -> None:
    # In a process of its own, as the program is: Ray reads address and token once, and other tests have used it here.
    process = multiprocessing.get_context("spawn").Process(target=hold_and_look)
    process.start()
    process.join()
    assert process.exitcode == 0


def hold_and_look() -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        os.environ.pop(name, None)
    with ray_session([]):
        import ray

        class Actor:
            def pid(self) -> int:
                return os.getpid()

        actor = ray.remote(num_cpus=0)(Actor).remote()
        worker = psutil.Process(ray.get(actor.pid.remote()))
        assert worker in psutil.Process().children(recursive=True)
        commands = [" ".join(each.cmdline()) for each in psutil.Process().children(recursive=True)]
        assert not [each for each in commands if "monitor.py" in each or "dashboard.py" in each]
        addresses = listening()
        assert {"gcs_server", "raylet", worker.name()} <= set(addresses)
        assert [each for some in addresses.values() for each in some if not each.startswith(LOOPBACK)] == []

        address, token = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]
        assert len(token) == 32
        call, others = CALL.format(address=address), {**os.environ, "RAY_AUTH_TOKEN": "0" * 32}
        without = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        assert "joined" in answer(call, dict(os.environ)).stdout
        for environment in (others, without):
            refused = answer(call, environment)
            assert refused.returncode == 1
            assert "joined" not in refused.stdout
            assert "nauthenticated" in refused.stderr
        del without["RAY_AUTH_MODE"], without["RAY_AUTH_TOKEN"]
        # A home without a token of its own.
        without["HOME"] = os.devnull
        assert "joined" not in answer(JOIN.format(address=address), without).stdout
        # Nothing that Ray writes names it.
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        files = [path for path in session.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if token.encode() in path.read_bytes()]
