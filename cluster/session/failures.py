"""How an error in a worker becomes one message on the driver."""

import json
import logging
import platform
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import engine.errors
from engine.errors import EngineError, ModelUnavailableError, RunError

Loaded = TypeVar("Loaded")

LOG = logging.getLogger(__name__)
# Before the second and the third try to load a model.
LOAD_WAITS_S = (2.0, 10.0)
# Begins the line of a traceback that says where an error happened.
NOTE = "counterforge: "
KEPT = "Shards that are done are kept; the same command goes on from there"


class Naming:
    """Note on an error where it happened and what it was.

    Ray hands the driver the text of a traceback, notes included, but not always the error itself.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Add the note."""
        if error is not None:
            error.add_note(
                NOTE + json.dumps({"where": self.where, "kind": type(error).__name__, "message": str(error)})
            )


def load_patiently(what: str, load: Callable[[], Loaded]) -> Loaded:
    """Return what `load` returns, called again where a model cannot be had just now; a failure names the machine."""
    where = f"{what} on {platform.node()}"
    with Naming(where):
        for wait_s in LOAD_WAITS_S:
            try:
                return load()
            except ModelUnavailableError as error:
                LOG.warning("%s: %s; it is tried again in %g s", where, error, wait_s)
                time.sleep(wait_s)
        return load()


def explain(error: BaseException) -> EngineError:
    """Return what a stage or a task said about the run, or a RunError that says what happened and where."""
    notes = [line.removeprefix(NOTE) for line in str(error).splitlines() if line.startswith(NOTE)]
    if not notes:
        return RunError(f"the run failed: {_last_line(str(error))}. {KEPT}")
    note = json.loads(notes[0])
    if kind := _engine_errors().get(note["kind"]):
        return kind(f"{note['where']}: {note['message']}")
    return RunError(f"{note['where']} failed: {note['kind']}: {_last_line(note['message'])}. {KEPT}")


def _engine_errors() -> dict[str, type[EngineError]]:
    found = {kind.__name__: kind for kind in vars(engine.errors).values() if isinstance(kind, type)}
    return {name: kind for name, kind in found.items() if issubclass(kind, EngineError)}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no message"
