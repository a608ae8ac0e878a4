"""A Ray cluster on this machine that grows on demand: Ray's own autoscaler starts processes for machines.

Like ray.cluster_utils.AutoscalingCluster, which cannot be had: the wheel lacks its configuration, and it begins and
ends with `ray stop --force`, which ends every Ray of the machine.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from ray._private import ray_constants, services
from ray._private.authentication_test_utils import reset_auth_token_state
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from waiting import free_port

from cluster.studies.chaos.driver import kill_all
from cluster.studies.chaos.nodes import own_ray

HEAD, WORKER = "ray.head.default", "gpu"
AUTH_MODE = "RAY_AUTH_MODE"
START_S = 120.0
ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}
EMPTY_LISTS = (
    "cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
    "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


@contextmanager
def growing_cluster(folder: Path, *, max_workers: int, idle_s: float) -> Iterator[str]:
    """Start a head without GPUs and yield its address; nodes of two cores and one GPU come and go."""
    with own_ray(), with_token():
        # The configuration names the port before Ray takes it.
        host, port = services.get_node_ip_address(), free_port()
        # On the loopback or not as this process, which may have imported Ray before: else they do not meet.
        loopback = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: str(int(ray_constants.ENABLE_RAY_CLUSTER))}
        config = folder / "cluster.json"
        config.write_text(json.dumps(cluster_config(f"{host}:{port}", max_workers, idle_s)))
        with (folder / "ray.log").open("w") as log:
            head = psutil.Popen(
                start_command(host, port, config),
                env=os.environ | ENVIRONMENT | loopback,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_for_head(head, (host, port), folder / "ray.log")
            yield f"{host}:{port}"
        finally:
            others = head.children(recursive=True) if head.poll() is None else []
            kill_all([head, *others])
            psutil.wait_procs([head, *others], timeout=30)


@contextmanager
def with_token() -> Iterator[None]:
    """Have Ray in this process show the token of `own_ray`, also where it has been imported before without one."""
    before = os.environ.get(AUTH_MODE)
    os.environ[AUTH_MODE] = "token"
    reset_auth_token_state()
    try:
        yield
    finally:
        if before is None:
            del os.environ[AUTH_MODE]
        else:
            os.environ[AUTH_MODE] = before
        reset_auth_token_state()


def cluster_config(address: str, max_workers: int, idle_s: float) -> dict[str, object]:
    """Return what Ray's autoscaler wants to know, every field of it."""
    return {
        "cluster_name": "growing",
        "max_workers": max_workers,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        # All nodes have one address: the autoscaler tells them apart by their ids, which it gives them.
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            WORKER: {
                "resources": {"CPU": 2, "GPU": 1, "object_store_memory": 100_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": max_workers,
            },
        },
        "head_node_type": HEAD,
        **{name: [] for name in EMPTY_LISTS},
    }


def start_command(host: str, port: int, config: Path) -> list[str]:
    """Return `ray start` for the head of cluster/deploy, which does no work, with no port that another may have."""
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"),
        *(f"--node-ip-address={host}", "--num-cpus=0", "--num-gpus=0", f"--autoscaling-config={config}"),
        *("--include-dashboard=false", "--dashboard-agent-listen-port=0", "--disable-usage-stats"),
        *(
            f"--ray-client-server-port={free_port()}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--object-store-memory={100_000_000}",
        ),
    ]


def wait_for_head(head: psutil.Popen, address: tuple[str, int], log: Path) -> None:
    """Wait until a driver can join."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and head.poll() is None:
        with suppress(OSError), socket.create_connection(address, timeout=1):
            if "--block" in log.read_text():
                return
        time.sleep(0.2)
    raise AssertionError(f"the head did not start: {log.read_text()}")
