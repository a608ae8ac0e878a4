"""Inversions: what is denoised before edits start from the noise of their source itself, once for all of its edits."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from actors.editor.pipelines.jobs import EditJob
from actors.editor.slots.batcher import Result
from actors.editor.slots.denoise_jobs import DenoiseJobs, Start
from actors.editor.slots.steps import DenoiseJob
from actors.editor.strategies.latents import SourceLatents


class Inversions(Protocol):
    """Invert the sources of edits, and say which edits can start."""

    count: int

    def more(self, num_waiting: int) -> Sequence[DenoiseJob]:
        """Return the jobs to denoise next, where `num_waiting` jobs wait already."""
        ...

    def starts(self, result: Result) -> Sequence[tuple[EditJob, Start]] | None:
        """Return the edits that can start by this result, none while their source's others are missing.

        None if the result is no inversion's.
        """
        ...


class DdimInversions:
    """DDIM inversion: one job for all edits of a source and a number of steps; all of them first."""

    def __init__(
        self, jobs: Sequence[EditJob], sources: Mapping[str, SourceLatents], denoise_jobs: DenoiseJobs
    ) -> None:
        alike: dict[tuple[str, int], list[EditJob]] = {}
        for job in jobs:
            alike.setdefault((job.scene, denoise_jobs.skipped(job)), []).append(job)
        self._new = [denoise_jobs.inversion(members[0], sources[source]) for (source, _), members in alike.items()]
        self._edits = dict(zip((each.key for each in self._new), alike.values(), strict=True))
        self.count = len(alike)

    def more(self, num_waiting: int) -> Sequence[DenoiseJob]:
        """Return all inversions the first time."""
        new, self._new = self._new, []
        return new

    def starts(self, result: Result) -> Sequence[tuple[EditJob, Start]] | None:
        """Return all edits that start from an inversion's result."""
        if result.job.key not in self._edits:
            return None
        assert result.latents is not None  # an inversion has no preview
        return [(job, Start(latents=result.latents)) for job in self._edits[result.job.key]]


@dataclass(kw_only=True)
class _Source:
    """One source under way: latents x_T to x_0, (num_steps + 1, channels, height, width), and the means found so far.

    Its edits skip `skipped` steps or more.
    """

    edits: list[EditJob]
    skipped: int
    latents: torch.Tensor
    means: dict[int, torch.Tensor] = field(default_factory=dict)


class EditFriendlyInversions:
    """Edit-friendly inversion: a job of one step for each step of a source, which all severities of its edits share.

    Sources are begun where fewer jobs wait than fill two calls of `num_rows` rows, so that the noise of few is in
    memory at a time. It is kept in the CPU's, num_steps times the latents of a source in float64 (26 MB for 50 steps of
    SDXL): the memory of a GPU is full of the calls that were fitted into it. It waits for the GPU once a source.
    """

    def __init__(
        self,
        jobs: Sequence[EditJob],
        sources: Mapping[str, SourceLatents],
        denoise_jobs: DenoiseJobs,
        *,
        num_rows: int,
    ) -> None:
        edits: dict[str, list[EditJob]] = {}
        for job in jobs:
            edits.setdefault(job.scene, []).append(job)
        self._waiting = deque(edits.values())
        self._sources, self._denoise_jobs, self._num_rows = sources, denoise_jobs, num_rows
        self._places: dict[str, tuple[_Source, int]] = {}
        self.count = len(edits)

    def more(self, num_waiting: int) -> Sequence[DenoiseJob]:
        """Return the jobs of the next sources, if there is room for them."""
        found: list[DenoiseJob] = []
        while self._waiting and num_waiting + len(found) < 2 * self._num_rows:
            found += self._begin(self._waiting.popleft())
        return found

    def starts(self, result: Result) -> Sequence[tuple[EditJob, Start]] | None:
        """Return the edits of a source whose last step this is."""
        if result.job.key not in self._places:
            return None
        source, step = self._places.pop(result.job.key)
        assert result.latents is not None  # an inversion has no preview
        source.means[step] = result.latents
        missing = len(source.latents) - 1 - len(source.means)
        return () if missing else self._found(source)

    def _begin(self, edits: list[EditJob]) -> Sequence[DenoiseJob]:
        skipped = min(map(self._denoise_jobs.skipped, edits))
        one = self._sources[edits[0].scene]
        with torch.inference_mode():
            latents, jobs = self._denoise_jobs.steps_to_means(edits[0], one, skipped)
        source = _Source(edits=edits, skipped=skipped, latents=latents)
        self._places.update((job.key, (source, step)) for step, job in enumerate(jobs))
        return jobs

    def _found(self, source: _Source) -> list[tuple[EditJob, Start]]:
        """Return each edit with its start: latents x_t, and sigma_t z_t = x_{t-1} - mu_t(x_t) of its steps."""
        with torch.inference_mode():
            means = torch.stack([source.means[step] for step in range(len(source.means))])
            # In float64 a step ends at x_{t-1} to the bit. A last bit that is off grows from step to step: with UNets
            # in bfloat16 to a third of the source's spread in 10 steps.
            noises = source.latents[1:].cpu().double() - means.cpu().double()
            begins = [(edit, self._denoise_jobs.skipped(edit) - source.skipped) for edit in source.edits]
            # A copy: a view would keep the latents of all steps.
            return [
                (edit, Start(latents=source.latents[begin].clone(), noises=noises[begin:])) for edit, begin in begins
            ]
