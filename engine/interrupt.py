"""Stops from outside and their exit codes; the main thread interrupted from another one, also under `nohup ... &`."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers send it: the same clean stop as after Ctrl-C."""


def terminate(number: int, frame: FrameType | None) -> None:
    """Raise Terminated: the handler of SIGTERM."""
    raise Terminated


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code by which shells and Makefiles know what stopped a program: 130, or 143 after SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yield a function, for any thread, that raises KeyboardInterrupt in the main thread and ends most waits.

    Outside the main thread no signal handler can be set: then the function sends SIGINT, as Ctrl-C does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: signal.pthread_kill(_main(), signal.SIGINT)
        return
    # Background processes of a shell start with SIGINT ignored, and Python leaves it so.
    before = signal.signal(signal.SIGUSR1, _raise)
    try:
        yield lambda: signal.pthread_kill(_main(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _main() -> int:
    return threading.main_thread().ident or 0
