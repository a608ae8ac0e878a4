"""How long the threads of a network wait for one another with a core in their hands."""

import os

# About 5 microseconds. GNU's OpenMP, which PyTorch's CPU wheels have, waits a thousand times as long by default.
SPINS = "1000"


def share_cores() -> None:
    """Let a thread that waits for the others give its core away; nothing changes once torch is imported.

    An operation ends when its last thread does. Where another process holds one of the cores, the threads that are
    done otherwise keep theirs until the operating system takes it from them: on two cores a training step beside a
    second training takes 2 s instead of 0.13 s. A user's own GOMP_SPINCOUNT or OMP_WAIT_POLICY stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
