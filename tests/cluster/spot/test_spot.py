"""At a notice of the cloud, or a SIGTERM, a machine's own Ray node is drained, and no other."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cloud_metadata import CloudMetadata, cloud_metadata
from repository import ROOT
from tint_runs import tint_run
from waiting import wait_until

from cluster.session.session import SessionConfig, ray_session
from cluster.spot.drain import find_own_node
from cluster.spot.metadata import EC2_VARIABLE, GCE_VARIABLE, Ec2Metadata, GceMetadata, metadata_of
from cluster.spot.notice import EC2_NOTICE_S, GCE_NOTICE_S, MetadataError, ec2_notice, gce_notice
from cluster.spot.watch import find_cloud
from cluster.studies.chaos.nodes import Nodes, own_ray
from engine.errors import PlacementError

# Port 1: nothing listens there.
NOWHERE = "127.0.0.1:1"
NOW_S = datetime(2026, 11, 23, 8, 0, tzinfo=UTC).timestamp()
WAIT_S = 60.0


@pytest.mark.parametrize("zone", ["Z", "+00:00", ""])
@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_ec2_says_what_becomes_of_a_machine_and_when(action: str, zone: str) -> None:
    notice = ec2_notice(json.dumps({"action": action, "time": f"2026-11-23T08:01:40{zone}"}), NOW_S)
    assert notice.end_s == NOW_S + 100
    assert action in notice.why


def test_a_time_that_has_passed_is_now() -> None:
    assert ec2_notice('{"action": "stop", "time": "2026-11-23T07:00:00Z"}', NOW_S).end_s == NOW_S


@pytest.mark.parametrize("said", ["", "soon", "[]", "null", '{"action": "stop"}', '{"action": "stop", "time": 7}'])
def test_a_notice_of_ec2_that_cannot_be_read_is_one_all_the_same(said: str) -> None:
    notice = ec2_notice(said, NOW_S)
    assert notice.end_s == NOW_S + EC2_NOTICE_S
    assert repr(said) in notice.why


def test_compute_engine_names_no_time() -> None:
    assert gce_notice("FALSE\n", NOW_S) is None
    notice = gce_notice("TRUE\n", NOW_S)
    assert notice is not None
    assert notice.end_s == NOW_S + GCE_NOTICE_S
    with pytest.raises(MetadataError, match=r"'<html>', Compute Engine says TRUE or FALSE"):
        gce_notice("<html>", NOW_S)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudMetadata]:
    # Were it asked, nothing would answer.
    monkeypatch.setenv("http_proxy", f"http://{NOWHERE}")
    with cloud_metadata() as server:
        yield server


def test_ec2_is_asked_with_one_token_until_it_is_refused(server: CloudMetadata) -> None:
    metadata = Ec2Metadata(f"http://{server.host}/")
    assert (metadata.notice(), metadata.notice()) == (None, None)
    assert (server.num_tokens, server.num_looks) == (1, 2)
    server.tokens.clear()
    with pytest.raises(MetadataError, match="answers 401"):
        metadata.notice()
    server.give_notice("2126-11-23T08:22:00Z")
    notice = metadata.notice()
    assert notice is not None
    assert notice.end_s == datetime(2126, 11, 23, 8, 22, tzinfo=UTC).timestamp()
    assert server.num_tokens == 2


def test_compute_engine_is_asked_with_its_header(server: CloudMetadata) -> None:
    metadata = GceMetadata(server.host)
    assert metadata.notice() is None
    server.preempted = "TRUE"
    assert metadata.notice() is not None


def test_the_cloud_is_the_one_whose_service_answers(server: CloudMetadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EC2_VARIABLE, f"http://{NOWHERE}")
    monkeypatch.setenv(GCE_VARIABLE, NOWHERE)
    with pytest.raises(PlacementError, match=r"neither of ec2, gce: http://127.0.0.1:1/latest.*refused"):
        find_cloud()
    monkeypatch.setenv(GCE_VARIABLE, server.host)
    assert find_cloud() == "gce"
    monkeypatch.setenv(EC2_VARIABLE, f"http://{server.host}")
    assert find_cloud() == "ec2"
    assert metadata_of("ec2").notice() is None


def test_a_node_of_another_machine_is_not_drained() -> None:
    with pytest.raises(PlacementError, match=r"Ray node runs on this machine"):
        find_own_node("0" * 56)


@contextmanager
def watcher(log: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command; it is ended with the block where it has not ended."""
    command = [sys.executable, "-m", "cluster.cli.main", "watch-node", *options]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def draining(address: str) -> dict[str, float]:
    """Return until when each node is there that Ray drains, in seconds of the epoch."""
    from ray._raylet import GcsClient

    found = GcsClient(address=address).get_draining_nodes(timeout=10)
    return {node.hex() if hasattr(node, "hex") else node: end / 1000 for node, end in found.items()}


@pytest.mark.slow
def test_a_notice_drains_the_machines_own_node_and_no_other(tmp_path: Path) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with ExitStack() as stack:
        ec2, gce = stack.enter_context(cloud_metadata()), stack.enter_context(cloud_metadata())
        stack.enter_context(own_ray())
        nodes = Nodes(tint_run(tmp_path))
        stack.callback(nodes.stop)
        ids = [nodes.add().node_id for _ in range(4)]
        logs = [tmp_path / f"{name}.log" for name in ("ec2", "gce", "end")]
        nowhere = {EC2_VARIABLE: f"http://{NOWHERE}"}
        start = stack.enter_context
        on_ec2 = start(watcher(logs[0], "--cloud", "ec2", "--node-id", ids[0], **{EC2_VARIABLE: f"http://{ec2.host}"}))
        on_gce = start(watcher(logs[1], "--node-id", ids[1], **nowhere, **{GCE_VARIABLE: gce.host}))
        lost = start(watcher(logs[2], "--cloud", "ec2", "--node-id", ids[2], "--grace", "50", **nowhere))
        stack.enter_context(ray_session([], SessionConfig(address=nodes.address)))

        # A drained node without work ends at once.
        @ray.remote(num_cpus=0.1)
        class Work:
            def is_there(self) -> bool:
                return True

        at = [NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in ids]
        work = [Work.options(scheduling_strategy=strategy).remote() for strategy in at]
        assert ray.get([actor.is_there.remote() for actor in work]) == [True] * 4
        wait_until(
            lambda: min(ec2.num_looks, gce.num_looks) >= 3 and "Asking on" in logs[2].read_text(),
            WAIT_S,
            lambda: [log.read_text() for log in logs],
        )
        assert draining(nodes.address) == {}

        end_s = float(round(time.time()) + 100)
        ec2.give_notice(f"{datetime.fromtimestamp(end_s, UTC):%Y-%m-%dT%H:%M:%SZ}")
        assert on_ec2.wait(WAIT_S) == 0
        assert draining(nodes.address) == {ids[0]: end_s}
        assert f"drained: Ray node {ids[0]} of {nodes.address}" in logs[0].read_text()

        gce.preempted = "TRUE"
        assert on_gce.wait(WAIT_S) == 0
        found = draining(nodes.address)
        assert set(found) == {ids[0], ids[1]}
        assert found[ids[1]] - time.time() < GCE_NOTICE_S

        lost.terminate()
        assert lost.wait(WAIT_S) == 0
        found = draining(nodes.address)
        assert set(found) == {ids[0], ids[1], ids[2]}
        assert 0 < found[ids[2]] - time.time() < 50
        assert logs[2].read_text().count("does not answer") == 1
        # What is at work goes on, and the node that nobody spoke of is as it was.
        assert ray.get([actor.is_there.remote() for actor in work]) == [True] * 4
