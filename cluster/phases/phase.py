"""A phase of a run, and phases.json: the seconds of each phase and the digest of its inputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from threading import Event, Thread
from time import monotonic
from typing import Any

from cluster.session.placement import Need
from engine.errors import EngineError
from engine.run.directory import PHASE_LOG, RunDirectory

# A killed run loses at most these seconds of its times.
SAVE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase after the plan: its needs, whether its result exists, a digest of its inputs, and how to run it.

    `needs` has one entry for each part, which run one after the other. The digest is None for a phase that checks its
    inputs itself.
    """

    name: str
    needs: Sequence[Sequence[Need]]
    is_there: Callable[[], bool]
    run: Callable[[], object]
    digest: Callable[[], str | None] = lambda: None

    @property
    def lease(self) -> str:
        """Return the name of the lease that its results are written under."""
        return "generate" if self.name == "allocate" else self.name


class PhaseLog:
    """Read and write phases.json: the seconds of each phase, summed over resumes, and the digest of its inputs."""

    def __init__(self, rundir: RunDirectory) -> None:
        self._rundir = rundir

    def is_done(self, phase: Phase) -> bool:
        """Return whether the phase's result exists and was made from these inputs."""
        digest = phase.digest()
        return phase.is_there() and (digest is None or self._read()["digests"].get(phase.name) == digest)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self._save(name, self._read()["seconds"].get(name, 0.0) + seconds)

    @contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        """Time a phase, also if it fails, is interrupted or killed; write its digest if it succeeds."""
        start, before, digest = monotonic(), self._read()["seconds"].get(phase.name, 0.0), None
        stop, has_failed = Event(), True

        def save_periodically() -> None:
            while not stop.wait(SAVE_S):
                with suppress(EngineError):  # such as a full disk, which the run itself reports
                    self._save(phase.name, before + monotonic() - start)

        saver = Thread(target=save_periodically, name="phases", daemon=True)
        saver.start()
        try:
            yield
            digest, has_failed = phase.digest(), False
        finally:
            stop.set()
            saver.join()
            # After a failure a second error, in writing the log, must not hide the first.
            with suppress(EngineError) if has_failed else nullcontext():
                self._save(phase.name, before + monotonic() - start, digest)

    def _save(self, name: str, seconds: float, digest: str | None = None) -> None:
        # Read again: another process may have written the times of another phase.
        log = self._read()
        log["seconds"][name] = round(seconds, 3)
        if digest is not None:
            log["digests"][name] = digest
        self._rundir.write_json(PHASE_LOG, {**log})

    def _read(self) -> dict[str, dict[str, Any]]:
        content: Any = self._rundir.read_json(PHASE_LOG) if self._rundir.exists(PHASE_LOG) else {}
        return {part: dict(content.get(part) or {}) for part in ("seconds", "digests")}
