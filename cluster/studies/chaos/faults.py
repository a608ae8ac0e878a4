"""The faults of a study and their descriptions; imports nothing heavy, since the command line's help reads it."""

from collections.abc import Mapping
from typing import Literal

Fault = Literal["driver", "actor", "node", "drain", "late", "storm"]

FAULTS: Mapping[Fault, str] = {
    "driver": "SIGKILL, at any time or in the writing of a shard; half of the times with all of its workers",
    "actor": "SIGKILL to a worker of any stage, or to one that reads or commits shards",
    "node": "SIGKILL to one of two nodes of a cluster; another joins later",
    "drain": "a preemption notice to a node, which is killed ten seconds later; another joins",
    "late": "a cluster without nodes; one joins, later a second",
    "storm": "driver, actor and node at once",
}
