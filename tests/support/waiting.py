"""Waiting for what other processes and threads do, and a port on which they can be asked."""

import socket
import time
from collections.abc import Callable

LOOK_S = 0.1


def wait_until(condition: Callable[[], bool], within_s: float, said: Callable[[], object] = str) -> None:
    """Wait for a condition; fail where it does not come true in time, with what is `said` then."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"nothing happened for {within_s:g} s {said()}"
        time.sleep(LOOK_S)


def free_port() -> int:
    """Return a port that nobody has just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
