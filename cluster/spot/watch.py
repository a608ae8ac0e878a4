"""Wait on a machine for the notice that the cloud takes it, and drain its Ray node then."""

import logging
import signal
import time
from typing import get_args

from cluster.spot.drain import RayNode, drain_node, find_own_node
from cluster.spot.metadata import Metadata, metadata_of
from cluster.spot.notice import Cloud, MetadataError, Notice
from engine.errors import PlacementError, RunError

LOG = logging.getLogger(__name__)
# EC2 asks for 5 s or less; of the 30 s of Compute Engine each counts.
LOOK_S = 2.0
AGAIN_S = 1.0


def watch_node(cloud: Cloud | None, node_id: str | None, grace_s: float) -> tuple[RayNode, Notice]:
    """Wait for a notice or for SIGTERM, drain the Ray node of this machine, and return both.

    A SIGTERM is a notice of `grace_s` seconds. Without a cloud the one is taken whose metadata service answers. Raises
    PlacementError where there is no cloud or no Ray here, RunError where the cluster does not answer until the end.
    """
    # From here on it waits until it is asked for: nothing is interrupted, and a second one changes nothing.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    node = find_own_node(node_id)
    cloud = cloud or find_cloud()
    LOG.info("Ray node %s of %s: watching for notices of %s and for SIGTERM", node.node_id, node.address, cloud)
    notice = wait_for_notice(metadata_of(cloud), grace_s)
    LOG.info("%s in %.0f s", notice.why, notice.end_s - time.time())
    return drain_until(notice, node_id), notice


def find_cloud() -> Cloud:
    """Return the cloud that this machine is in; raise PlacementError where none answers."""
    clouds: tuple[Cloud, ...] = get_args(Cloud)
    errors = []
    for cloud in clouds:
        try:
            metadata_of(cloud).notice()
        except MetadataError as error:
            errors.append(str(error))
        else:
            return cloud
    raise PlacementError(
        f"this machine seems to be on neither of {', '.join(clouds)}: {'; '.join(errors)}. If it is, name the cloud "
        "with --cloud, and its service is waited for. In a container on EC2 the metadata hop limit must be 2"
    )


def wait_for_notice(metadata: Metadata, grace_s: float) -> Notice:
    """Ask until there is a notice, also where nobody answers for a while. SIGTERM is one, which must be blocked."""
    is_reachable = True
    while True:
        try:
            notice = metadata.notice()
        except MetadataError as error:
            if is_reachable:
                LOG.warning("%s. Asking on every %g s, without another word until it answers", error, LOOK_S)
            is_reachable = False
        else:
            if notice is not None:
                return notice
            if not is_reachable:
                LOG.info("the metadata service answers")
            is_reachable = True
        if signal.sigtimedwait([signal.SIGTERM], LOOK_S):
            return Notice(why="SIGTERM: this machine is to end", end_s=time.time() + grace_s)


def drain_until(notice: Notice, node_id: str | None) -> RayNode:
    """Drain the Ray node of this machine, and try again while there is time; raise RunError after that."""
    while True:
        # Looked for again: Ray may have been started anew since.
        node = find_own_node(node_id)
        try:
            drain_node(node, notice.end_s, notice.why)
        except RunError as error:
            if time.time() > notice.end_s:
                raise
            LOG.warning("%s. Trying again", error)
            time.sleep(AGAIN_S)
        else:
            return node
