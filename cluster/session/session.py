"""One Ray session a command: a fresh local one on the loopback, or a cluster that is joined; it stops nothing else."""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.session.imports import HOOK, worker_environment
from cluster.session.placement import Capacity, Need, Node, Resources, check_placement, local_cpus
from cluster.session.temporary import ray_folder
from engine.errors import PlacementError, RunError

if TYPE_CHECKING:
    from ray.job_config import JobConfig

LOG = logging.getLogger(__name__)
# Ray gives its processes 30 s to come up and then raises a bare Exception: too short on a machine that is very busy.
START_ATTEMPTS = 3
# Every 10 s by default: too seldom for a short run, whose session ends with it.
METRICS_REPORT_MS = 2000
# Read by Ray when it is imported or starts a worker.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    # Without this Ray warns that it will soon leave CUDA_VISIBLE_DEVICES alone for actors without GPUs.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A spot cluster may need minutes for its workers; Ray Train gives up after 60 s.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",
    # Ray's C++ side writes an E line to the terminal for each actor pool (ray#53727); real failures are exceptions.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
# What Ray starts beside each session: an autoscaler, a reader of logs for the driver, a server for the dashboard. On
# one machine, with logs and dashboard off, they are of no use, and their start and end take two cores four seconds.
NEEDLESS = ("start_monitor", "start_log_monitor", "start_api_server")


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Say where to run. `address` joins a cluster; `autoscaling` trusts it to grow to what is asked.

    At `metrics_port` of the loopback Prometheus finds the metrics of a local session.
    """

    address: str | None = None
    autoscaling: bool = False
    num_gpus: int | None = None
    metrics_port: int | None = None


@contextmanager
def ray_session(phases: Sequence[Sequence[Need]], config: SessionConfig | None = None) -> Iterator[None]:
    """Hold a Ray session that can satisfy `phases`; raise PlacementError before anything starts.

    A session that the caller holds already is used and left running.
    """
    config = config or SessionConfig()
    prepare_environment(config.address is None)
    if config.metrics_port is not None:
        check_metrics_port(config.metrics_port, config.address)
    import ray

    if ray.is_initialized():
        check_placement(phases, cluster_capacity())
        yield
        return
    if config.address is None:
        _start_local(phases, config)
    else:
        _join(config.address)
    try:
        if config.address is not None and not config.autoscaling:
            check_placement(phases, cluster_capacity())
        yield
    finally:
        ray.shutdown()


def prepare_environment(local: bool) -> None:
    """Set what Ray reads from the environment, unless the user has set it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # DeepSpeed looks for ninja on PATH; pip puts it beside Python, where a venv that is not activated is not found.
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join((beside, os.environ.get("PATH", "")))
    # Workers then import what this process can: plugins beside the run file, for one.
    os.environ.update(worker_environment())
    if local:
        # As a runtime environment, which is the public way, it would cost each session two seconds.
        os.environ["__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"] = HOOK
        # Nobody preempts this machine: one process fewer to start for each training.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # Ray then listens on the loopback alone, on Linux too (the name says where that is the default).
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Without a token any user of this machine could run code as us; Ray would otherwise write one to ~/.ray.
        if os.environ.get("RAY_AUTH_MODE") != "disabled" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))


def check_metrics_port(port: int, address: str | None = None) -> None:
    """Raise PlacementError where the metrics of this command could not be served at that port."""
    if not 0 < port < 2**16:
        raise PlacementError(f"--metrics-port {port}: expected a port from 1 to {2**16 - 1}, such as 9464")
    if address is not None:
        raise PlacementError(
            f"--metrics-port {port} is for this machine alone: the nodes of a cluster serve their metrics already, at "
            "the port that `ray start --metrics-export-port` was given"
        )
    if (missing := missing_for_metrics()) is not None:
        raise PlacementError(
            f"--metrics-port {port}: Ray's metrics agent needs more packages ({missing}): pip install "
            '"counterforge[metrics]"'
        )
    with socket.socket() as probe:
        # As the agent does, so that connections of a run before, which are being closed, are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PlacementError(f"--metrics-port {port} cannot be used ({error}): choose another one") from error


def missing_for_metrics() -> str | None:
    """Return why Ray's metrics agent cannot be imported, None where it can."""
    try:
        # What Ray imports to know whether it can start an agent that serves metrics (2.60).
        import ray.dashboard.optional_deps  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def cluster_capacity() -> Capacity:
    """Return what the nodes of the joined cluster have."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(num_cpus=have.get("CPU", 0), num_gpus=have.get("GPU", 0)) for have in resources)
    return Capacity(nodes=nodes, local=False)


def cluster_resources() -> Resources:
    """Return what the joined cluster has now, and what of it nobody holds."""
    import ray

    have, free = ray.cluster_resources(), ray.available_resources()
    return Resources(
        num_cpus=have.get("CPU", 0.0),
        num_gpus=have.get("GPU", 0.0),
        free_cpus=free.get("CPU", 0.0),
        free_gpus=free.get("GPU", 0.0),
    )


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_capacity(phases: Sequence[Sequence[Need]], num_gpus: int | None = None) -> Capacity:
    """Return what this machine has; GPUs are counted (None) only where one is needed, as importing torch takes long."""
    if num_gpus is None and any(need.num_gpus for needs in phases for need in needs):
        import torch

        num_gpus = torch.cuda.device_count()
    return Capacity(nodes=(Node(num_cpus=num_cores(), num_gpus=num_gpus or 0),), local=True)


def _start_local(phases: Sequence[Sequence[Need]], config: SessionConfig) -> None:
    import ray

    capacity = local_capacity(phases, config.num_gpus)
    check_placement(phases, capacity)
    folder, more = ray_folder(), dict[str, Any]()
    if folder.note is not None:
        LOG.warning("%s", folder.note)
        more = {"_temp_dir": folder.path, "object_spilling_directory": folder.spill}
    if config.metrics_port is not None:
        report = {"metrics_report_interval_ms": METRICS_REPORT_MS}
        more |= {"_metrics_export_port": config.metrics_port, "_system_config": report}
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            with _quiet_start(), _lean_start():
                ray.init(
                    address="local",
                    num_cpus=local_cpus(phases, num_cores()),
                    num_gpus=int(capacity.num_gpus),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    job_config=_job_config(),
                    **more,
                )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise RunError(
                    f"Ray did not start on this machine: {str(error).strip().splitlines()[0]} Is it very busy, or "
                    f"short of memory or disk? Its logs are in {folder.path}/session_latest; the same command tries "
                    "again"
                ) from error
            LOG.warning("Ray did not start in time, trying again")


def _join(address: str) -> None:
    import ray
    import ray.exceptions

    if address.startswith("ray://"):
        raise PlacementError(
            f"--address {address}: a run needs a driver inside the cluster: submit it with "
            "`ray job submit -- counterforge run ... --address auto`"
        )
    try:
        with _quiet_start():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                job_config=_job_config({"env_vars": dict(worker_environment()), "worker_process_setup_hook": HOOK}),
            )
    except (ConnectionError, ray.exceptions.RayError, RuntimeError, ValueError) as error:
        raise PlacementError(
            f"cannot join a Ray cluster at {address}: {str(error).splitlines()[0]} Start one with `ray start --head`, "
            "give RAY_AUTH_TOKEN if it asks for a token, or leave --address out to run on this machine alone"
        ) from error


def _job_config(runtime_env: Mapping[str, object] | None = None) -> "JobConfig":
    """Return the settings of a job whose workers look for modules where `worker_environment` says, and nowhere else.

    Ray would put the current folder of the driver in front of all else, which may hold an engine.py of another project.
    """
    from ray.job_config import JobConfig

    class OwnImports(JobConfig):  # type: ignore[misc]  # ray ships no types
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return OwnImports(runtime_env=runtime_env)


@contextmanager
def _lean_start() -> Iterator[None]:
    """Leave out what is NEEDLESS. Ray has no setting for that (2.60); a Ray without these names starts all of it."""
    try:
        from ray._private.node import Node
    except ImportError:
        yield
        return
    kept = {name: getattr(Node, name) for name in NEEDLESS if hasattr(Node, name)}
    for name in kept:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, start in kept.items():
            setattr(Node, name, start)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Silence Ray on the terminal: a failure reaches us as an exception, and we say it in one message.

    Its C++ side writes to the file descriptor itself, to say that it was told to be quiet.
    """
    import ray.data  # sets its own log levels when it is imported

    for name in ("ray", ray.data.__name__, "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.stderr.flush()
    handler = signal.getsignal(signal.SIGTERM)
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        if threading.current_thread() is threading.main_thread():
            # Ray puts its own there, which leaves with exit code 15 and no word.
            signal.signal(signal.SIGTERM, handler)
