"""Preemption notices, parsed from the answers of the metadata services."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from engine.errors import RunError

Cloud: TypeAlias = Literal["ec2", "gce"]
# The time from notice to end that EC2 and Compute Engine promise.
EC2_NOTICE_S, GCE_NOTICE_S = 120.0, 30.0


class MetadataError(RunError):
    """Report a metadata service that does not answer, or answers with something unexpected."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """The reason why a machine ends, and when: `end_s` in seconds since 1970."""

    why: str
    end_s: float


def ec2_notice(instance_action: str, now_s: float) -> Notice:
    """Return the notice in spot/instance-action: terminate, stop or hibernate, and when.

    The file only exists once the machine is to end, so an unreadable answer is a notice too, with EC2's usual time.
    """
    try:
        said = json.loads(instance_action)
        action, end = str(said["action"]), datetime.fromisoformat(said["time"])
        # EC2's times are in UTC, also without a zone.
        end_s = (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp()
    except (ValueError, KeyError, TypeError, OverflowError):
        return Notice(why=f"EC2 takes this machine and says {instance_action[:80]!r}", end_s=now_s + EC2_NOTICE_S)
    return Notice(why=f"EC2 is to {action} this machine", end_s=max(end_s, now_s))


def gce_notice(preempted: str, now_s: float) -> Notice | None:
    """Return the notice in instance/preempted, None while it is FALSE. It has no time: 30 s are usual.

    Raises MetadataError for any other text: some networks answer for every name.
    """
    match preempted.strip():
        case "TRUE":
            return Notice(why="Compute Engine preempts this machine", end_s=now_s + GCE_NOTICE_S)
        case "FALSE":
            return None
        case other:
            raise MetadataError(f"instance/preempted is {other[:80]!r}, Compute Engine says TRUE or FALSE")
