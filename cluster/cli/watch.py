"""The command that runs beside Ray on each machine of a cluster: watch-node."""

import argparse
import sys
import time
from typing import get_args

from cluster.cli.options import Commands, add_command
from cluster.spot.notice import Cloud

# What Kubernetes leaves between SIGTERM and the end, unless it is told otherwise.
GRACE_S = 30.0
TEXT = """\
Ask the cloud's metadata service whether this spot machine is to go. At a notice tell Ray to drain this machine's node
until then: it gets no new work, what it has at work may end, and the run goes on elsewhere. Then this command ends,
with exit code 0. SIGTERM counts as a notice. No other node is touched.

  ec2   two minutes ahead; at AWS_EC2_METADATA_SERVICE_ENDPOINT, default http://169.254.169.254 (IMDSv2)
  gce   thirty seconds ahead; at GCE_METADATA_HOST, default metadata.google.internal

Start it on every worker after `ray start`, as cluster/deploy/aws.yaml does. `ray start --block` needs none where the
machine's end comes as a SIGTERM to it, as on Kubernetes: it drains its node itself."""


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "watch-node",
        "drain this machine's Ray node when the cloud is about to take it",
        TEXT,
        "  counterforge watch-node\n  nohup counterforge watch-node --cloud ec2 > watch-node.log 2>&1 < /dev/null &",
    )
    parser.add_argument(
        "--cloud",
        choices=("auto", *get_args(Cloud)),
        default="auto",
        help="whose notices; a cloud that is named is waited for where it does not answer (default: auto)",
    )
    parser.add_argument("--node-id", metavar="ID", help="which Ray node to drain, where this machine runs several")
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_S,
        metavar="SECONDS",
        help=f"how long this machine is there after a SIGTERM (default: {GRACE_S:g})",
    )
    parser.set_defaults(command=watch_command)


def watch_command(options: argparse.Namespace) -> int:
    """Wait, drain and say so."""
    from cluster.session.session import prepare_environment
    from cluster.spot.watch import watch_node

    prepare_environment(local=False)
    try:
        node, notice = watch_node(None if options.cloud == "auto" else options.cloud, options.node_id, options.grace)
    except KeyboardInterrupt:
        print("counterforge: stopped. Nothing was drained", file=sys.stderr)
        return 1
    left = max(notice.end_s - time.time(), 0)
    print(f"drained: Ray node {node.node_id} of {node.address} gets no new work; {notice.why} in {left:.0f} s")
    return 0
