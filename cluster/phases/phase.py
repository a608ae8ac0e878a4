"""The phases of a run after its plan, and the account of what each took and was made from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from threading import Event, Thread
from time import monotonic
from typing import Any

from cluster.session.placement import Need
from engine.errors import EngineError
from engine.run.directory import PHASE_LOG, RunDirectory

# A run that is killed loses at most these seconds of its account.
SAVE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Hold one phase after the plan: its needs, whether its result is there, a digest of its inputs, and how to run it.

    `needs` are its parts, one after the other. A phase that makes its own check of its inputs has no digest.
    """

    name: str
    needs: Sequence[Sequence[Need]]
    is_there: Callable[[], bool]
    digest: Callable[[], str | None]
    run: Callable[[], object]

    @property
    def lease(self) -> str:
        """Return the lease that its results are written under: what is spent on a round belongs to making it."""
        return "generate" if self.name == "allocate" else self.name


class PhaseLog:
    """Keep phases.json: the seconds of each phase, summed over resumes, and what its result was made from."""

    def __init__(self, rundir: RunDirectory) -> None:
        self._rundir = rundir
        self._seconds, self._digests = self._read()

    def is_done(self, phase: Phase) -> bool:
        """Return whether the phase's result is there and was made from these inputs."""
        digest = phase.digest()
        return phase.is_there() and (digest is None or self._digests.get(phase.name) == digest)

    def add(self, name: str, seconds: float, digest: str | None = None) -> None:
        """Add seconds to a phase, and its digest once it is done."""
        self._save(name, self._seconds.get(name, 0.0) + seconds, digest)

    @contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        """Time a phase, also where it fails, is interrupted or killed; note it as done where it is not."""
        start, before, digest = monotonic(), self._seconds.get(phase.name, 0.0), None
        stop, has_failed = Event(), True

        def save_now_and_then() -> None:
            while not stop.wait(SAVE_S):
                with suppress(EngineError):  # a full disk, for one: what the run says of it is enough
                    self._save(phase.name, before + monotonic() - start)

        saver = Thread(target=save_now_and_then, name="phases", daemon=True)
        saver.start()
        try:
            yield
            digest, has_failed = phase.digest(), False
        finally:
            stop.set()
            saver.join()
            # Where it failed, the reason must be heard, and not that its account could not be written either.
            with suppress(EngineError) if has_failed else nullcontext():
                self._save(phase.name, before + monotonic() - start, digest)

    def _save(self, name: str, seconds: float, digest: str | None = None) -> None:
        # Another process may do another phase of the run meanwhile: what it wrote stays.
        self._seconds, self._digests = self._read()
        self._seconds[name] = round(seconds, 3)
        if digest is not None:
            self._digests[name] = digest
        self._rundir.write_json(PHASE_LOG, {"seconds": dict(self._seconds), "digests": dict(self._digests)})

    def _read(self) -> tuple[dict[str, float], dict[str, str]]:
        content: Any = self._rundir.read_json(PHASE_LOG) if self._rundir.exists(PHASE_LOG) else {}
        return dict(content.get("seconds") or {}), dict(content.get("digests") or {})
