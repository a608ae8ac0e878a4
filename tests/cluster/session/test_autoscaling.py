"""A run on a cluster that grows on demand: from no GPU to all that it may have, and back to none."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

import pytest
import ray
from growing_cluster import growing_cluster
from tint_runs import contents, generate, make_in_process, tint_run, write_images
from waiting import wait_until

import cluster.dataflow.dataflow
from cluster.session.placement import generate_needs, group_placement
from cluster.session.session import SessionConfig, ray_session
from engine.runfile.fields import Placement
from engine.runfile.run import RunFile

LOG = logging.getLogger(__name__)
# A node that waits for its actor is idle too: where others have the cores, a shorter time takes it away again.
MAX_NODES, IDLE_S = 2, 12.0
NUM_SHARDS = 8
WAIT_S = 240.0


def num_gpu_nodes() -> int:
    return sum(node["Alive"] and node["Resources"].get("GPU", 0) > 0 for node in ray.nodes())


class Watch(Thread):
    """Note when the cluster had how many GPU nodes; when it has all, let the run go on, which waits for `grown`."""

    def __init__(self, grown: Path) -> None:
        super().__init__(daemon=True)
        self.grown, self.first_at, self.is_over = grown, dict[int, float](), Event()

    def run(self) -> None:
        while not self.is_over.wait(0.2):
            self.first_at.setdefault(num_gpu_nodes(), time.monotonic())
            if MAX_NODES in self.first_at:
                self.grown.touch()


def on_a_gpu(run: RunFile, group: Sequence[str]) -> Placement:
    return group_placement(run, group).model_copy(update={"num_gpus": 1.0})


@pytest.mark.slow
def test_a_run_takes_a_cluster_from_no_gpu_to_two_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grown = tmp_path / "grown"
    tint = {
        "kind": "plugin",
        "target": "tiny_stages:Tint",
        "options": {"wait_for": str(grown)},
        "placement": {"num_cpus": 0.1, "replicas": [1, MAX_NODES]},
    }
    run = tint_run(write_images(tmp_path / "images", per_class=NUM_SHARDS // 2), stages={"tint": tint})
    run = run.model_copy(update={"shards": run.shards.model_copy(update={"sources_per_shard": 1})})
    grown.touch()
    make_in_process(run, tmp_path / "here", range(NUM_SHARDS))
    grown.unlink()
    # The driver asks Ray for a GPU for each actor. The actors, who would look for CUDA on it, know of none: these GPUs
    # are a number.
    monkeypatch.setattr(cluster.dataflow.dataflow, "group_placement", on_a_gpu)
    watch = Watch(grown)
    with (
        growing_cluster(tmp_path, max_workers=MAX_NODES, idle_s=IDLE_S) as address,
        ray_session([generate_needs(run)], SessionConfig(address=address, autoscaling=True)),
    ):
        assert num_gpu_nodes() == 0
        watch.start()
        start = time.monotonic()
        made = generate(run, tmp_path / "cluster")
        end = time.monotonic()
        wait_until(lambda: num_gpu_nodes() == 0, WAIT_S)
        gone = time.monotonic()
        watch.is_over.set()
        watch.join()
        assert num_gpu_nodes() == 0
    LOG.info(
        "the first node after %.0f s, all after %.0f s, the end after %.0f s, none %.0f s later",
        watch.first_at[1] - start, watch.first_at[MAX_NODES] - start, end - start, gone - end,
    )  # fmt: skip
    assert watch.first_at[MAX_NODES] < end
    assert len(made.done()) == NUM_SHARDS
    assert contents(tmp_path / "cluster") == contents(tmp_path / "here")
