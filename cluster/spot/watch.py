"""Wait for the preemption notice of this machine, then drain its Ray node."""

import logging
import signal
import time
from typing import get_args

from cluster.spot.drain import RayNode, drain_node, find_own_node
from cluster.spot.metadata import Metadata, metadata_of
from cluster.spot.notice import Cloud, MetadataError, Notice
from engine.errors import PlacementError, RunError

LOG = logging.getLogger(__name__)
# EC2 recommends at most 5 s; Compute Engine gives only 30 s in all.
LOOK_S = 2.0
AGAIN_S = 1.0


def drain_on_notice(cloud: Cloud | None, node_id: str | None, grace_s: float) -> tuple[RayNode, Notice]:
    """Wait for a notice or for SIGTERM, drain the Ray node of this machine, and return both.

    A SIGTERM is a notice of `grace_s` seconds. `cloud` None: the one whose metadata service answers. Raises
    PlacementError where there is no cloud or no Ray here, RunError where the cluster does not answer until the end.
    """
    # Blocked, so that it stays pending until sigtimedwait and interrupts nothing.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    node = find_own_node(node_id)
    cloud = cloud or find_cloud()
    LOG.info("Ray node %s of %s: watching for notices of %s and for SIGTERM", node.node_id, node.address, cloud)
    notice = wait_for_notice(metadata_of(cloud), grace_s)
    LOG.info("%s in %.0f s", notice.why, notice.end_s - time.time())
    return drain_until(notice, node_id), notice


def find_cloud() -> Cloud:
    """Return the cloud whose metadata service answers; PlacementError if none does."""
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
        "with --cloud; its service is then waited for. In a container on EC2 the metadata hop limit must be 2"
    )


def wait_for_notice(metadata: Metadata, grace_s: float) -> Notice:
    """Poll the metadata service until there is a notice, also through failures. A (blocked) SIGTERM is a notice."""
    is_reachable = True
    while True:
        try:
            notice = metadata.notice()
        except MetadataError as error:
            if is_reachable:
                LOG.warning("%s. Asking on every %g s; the next line is logged when it answers", error, LOOK_S)
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
    """Drain the Ray node of this machine, with retries until the notice's time; RunError after that."""
    while True:
        # Found again each time: Ray may have been restarted.
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
