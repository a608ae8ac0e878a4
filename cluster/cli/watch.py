"""The command `watch-node`, which runs beside Ray on each spot machine of a cluster."""

import argparse
import sys
import time
from typing import get_args

from cluster.cli.options import Commands, add_command
from cluster.spot.notice import Cloud

# Kubernetes' default time between SIGTERM and SIGKILL.
GRACE_S = 30.0


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    parser = add_command(commands, "watch-node", watch_node)
    parser.add_argument(
        "--cloud",
        choices=("auto", *get_args(Cloud)),
        default="auto",
        help="cloud whose notices to read; a named one is waited for if it does not answer (default: auto)",
    )
    parser.add_argument("--node-id", metavar="ID", help="Ray node to drain, if this machine runs several")
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_S,
        metavar="SECONDS",
        help=f"time from SIGTERM to the end of this machine (default: {GRACE_S:g})",
    )


def watch_node(options: argparse.Namespace) -> int:
    """Drain this machine's Ray node when the cloud is about to take the machine.

    Poll the cloud's metadata service for a preemption notice. At a notice drain this machine's Ray node: it gets no
    new work, running work may finish until the machine goes, and the run continues on other nodes. The command then
    ends with exit code 0. SIGTERM counts as a notice. Other nodes are not touched. Writes no file.

      ec2   two minutes ahead; at AWS_EC2_METADATA_SERVICE_ENDPOINT, default http://169.254.169.254 (IMDSv2)
      gce   thirty seconds ahead; at GCE_METADATA_HOST, default metadata.google.internal

    Start it on every worker after `ray start`, as cluster/deploy/aws.yaml does. It is not needed on Kubernetes:
    `ray start --block` drains its node itself when it gets SIGTERM.

    Examples:
      counterforge watch-node
      nohup counterforge watch-node --cloud ec2 > watch-node.log 2>&1 < /dev/null &
    """
    from cluster.session.session import prepare_environment
    from cluster.spot.watch import drain_on_notice
    from engine.interrupt import exit_code

    prepare_environment(local=False)
    cloud = None if options.cloud == "auto" else options.cloud
    try:
        node, notice = drain_on_notice(cloud, options.node_id, options.grace)
    except KeyboardInterrupt as stop:
        print("counterforge: stopped. Nothing was drained", file=sys.stderr)
        return exit_code(stop)
    left = max(notice.end_s - time.time(), 0)
    print(f"drained: Ray node {node.node_id} of {node.address} gets no new work; {notice.why} in {left:.0f} s")
    return 0
