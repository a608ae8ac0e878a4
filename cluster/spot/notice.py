"""What a cloud says before it takes a machine away, and until when the machine is there. Pure: answers come in."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from engine.errors import RunError

Cloud: TypeAlias = Literal["ec2", "gce"]
# What EC2 and Compute Engine promise from the notice on.
EC2_NOTICE_S, GCE_NOTICE_S = 120.0, 30.0


class MetadataError(RunError):
    """Report a metadata service that does not answer, or not as it should."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Say why a machine goes and when, in seconds of the epoch."""

    why: str
    end_s: float


def ec2_notice(instance_action: str, now_s: float) -> Notice:
    """Return what spot/instance-action says: terminate, stop or hibernate, and when.

    It is only there once the machine is to go. So an answer that cannot be read is a notice too, with EC2's usual time.
    """
    try:
        said = json.loads(instance_action)
        action, end = str(said["action"]), datetime.fromisoformat(said["time"])
        # A time without a zone is in UTC, as all of EC2's are.
        end_s = (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp()
    except (ValueError, KeyError, TypeError, OverflowError):
        return Notice(why=f"EC2 takes this machine and says {instance_action[:80]!r}", end_s=now_s + EC2_NOTICE_S)
    # A time that has passed: now.
    return Notice(why=f"EC2 is to {action} this machine", end_s=max(end_s, now_s))


def gce_notice(preempted: str, now_s: float) -> Notice | None:
    """Return what instance/preempted says, None while it is FALSE. It names no time: 30 s are what there is.

    Raises MetadataError where it is something else: then another has answered, as some networks do for any name.
    """
    match preempted.strip():
        case "TRUE":
            return Notice(why="Compute Engine preempts this machine", end_s=now_s + GCE_NOTICE_S)
        case "FALSE":
            return None
        case other:
            raise MetadataError(f"instance/preempted is {other[:80]!r}, Compute Engine says TRUE or FALSE")
