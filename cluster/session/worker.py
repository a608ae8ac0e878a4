"""Workers: how an actor ends, how it loads its model, and how its error becomes one message on the driver."""

import atexit
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import engine.errors
from engine.errors import EngineError, ModelUnavailableError, RunError
from engine.processor import processor

Loaded = TypeVar("Loaded")

LOG = logging.getLogger(__name__)
# Before the second and the third attempt to load a model.
LOAD_WAITS_S = (2.0, 10.0)
# Prefix of the traceback line that holds the context of an error as JSON.
NOTE = "counterforge: "
KEPT = "Shards that are done are kept; the same command continues"


def kind_of_machine(*, on_gpu: bool) -> str:
    """Return the name of the GPU or the processor that computes here, on which the last bits of images depend."""
    if on_gpu:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    return processor()


def exit_without_teardown() -> None:
    """Let this actor's process end without interpreter teardown: freeing torch objects costs about a core-second.

    Ray has ended the actor properly by then. Outside an actor nothing changes: a driver has more to do at its end.
    """
    import ray

    if ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None:
        # atexit calls the last function first, so that no other one runs.
        atexit.register(_exit)


def _exit() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def error_context(where: str) -> Iterator[None]:
    """Add a note to an error: where it happened, its class and its message.

    Ray gives the driver the text of a traceback, notes included, but not always the error object.
    """
    try:
        yield
    except BaseException as error:
        error.add_note(NOTE + json.dumps({"where": where, "kind": type(error).__name__, "message": str(error)}))
        raise


def load_with_retries(what: str, load: Callable[[], Loaded]) -> Loaded:
    """Return `load()`, retried while the model is unavailable; the error of the last attempt names the machine."""
    where = f"{what} on {platform.node()}"
    with error_context(where):
        for wait_s in LOAD_WAITS_S:
            try:
                return load()
            except ModelUnavailableError as error:
                LOG.warning("%s: %s; trying again in %g s", where, error, wait_s)
                time.sleep(wait_s)
        return load()


def explain(error: BaseException) -> EngineError:
    """Return the EngineError that a worker raised, or a RunError with what happened and where."""
    notes = [line.removeprefix(NOTE) for line in str(error).splitlines() if line.startswith(NOTE)]
    if not notes:
        return RunError(f"the run failed: {last_line(str(error))}. {KEPT}")
    note = json.loads(notes[0])
    kind = getattr(engine.errors, note["kind"], None)
    if isinstance(kind, type) and issubclass(kind, EngineError):
        return kind(f"{note['where']}: {note['message']}")
    return RunError(f"{note['where']} failed: {note['kind']}: {last_line(note['message'])}. {KEPT}")


def last_line(text: str) -> str:
    """Return the last line of an error's text."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no message"
