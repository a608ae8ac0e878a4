"""The slot batcher: each edit at its own step, guidance and length, one UNet call of a fixed shape a tick."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from actors.editor.slots.steps import DenoiseJob, Slot, make_step, num_rows, unet_inputs
from actors.editor.slots.unet import DeepFeatures


@dataclass(frozen=True, kw_only=True)
class Result:
    """The latents (channels, height, width) of a job that has ended; None if the judge dropped it."""

    job: DenoiseJob
    latents: torch.Tensor | None
    num_steps: int


# A UNet, or rows fitted into its calls: latents with their conditions, times, prompts and, from a batcher that caches
# them, deep features of each row, to outputs (num_rows, channels, height, width), float32.
Denoise = Callable[..., torch.Tensor]
# From jobs and their states, (num_jobs, NUM_KEPT, channels, height, width), to which jobs go on.
Judge = Callable[[Sequence[DenoiseJob], torch.Tensor], Sequence[bool]]


@dataclass
class SlotBatcher:
    """Continuous batching for diffusion: jobs at different denoising steps share UNet calls of `num_rows` rows.

    While jobs wait, slots are served first come, first served, and a slot that is done makes room at once. Afterwards
    those with most steps left go first, so that the last slots end together and few rows are unused (McNaughton 1959).
    Unused rows repeat the last one: all calls have one shape, and a result does not depend on its neighbours. `judge`
    gets `judge_batch` previews at a time. Nothing in a tick waits for a GPU, which so gets its next call early.

    With a `deep_cache_interval` above 1 a slot reuses its deep features for as many steps; all slots of a tick compute
    theirs anew or none does. `calls` counts ticks, rows that were run, useful rows, and useful rows on cached features.
    """

    denoise: Denoise
    num_rows: int
    judge: Judge | None = None
    judge_batch: int = 1
    deep_cache_interval: int = 1
    calls: Counter[str] = field(default_factory=Counter)

    def run(self, jobs: deque[DenoiseJob]) -> Iterator[Result]:
        """Take jobs from the left, long ones first, and yield a result for each as it ends; more may be added."""
        slots: list[Slot] = []
        while True:
            chosen = self._fill(slots, jobs)
            if not slots:
                return
            waiting = [slot for slot in slots if self._waits(slot)]
            if len(waiting) >= self.judge_batch or (waiting and num_rows(chosen) < self.num_rows):
                yield from self._judged(waiting[: self.judge_batch], slots)
                continue
            with torch.inference_mode():
                self._tick(chosen)
            for slot in [slot for slot in chosen if slot.is_done]:
                slots.remove(slot)
                yield Result(job=slot.job, latents=slot.state[0], num_steps=slot.step)

    def _fill(self, slots: list[Slot], jobs: deque[DenoiseJob]) -> list[Slot]:
        """Take jobs in until their rows fill a call, and return the slots that make a step."""
        chosen = self._chosen(slots, jobs)
        # Twice as many slots as rows: one of so many fits into the rows that are left. The last jobs are all taken in.
        most = 2 * self.num_rows + self.judge_batch
        while jobs and len(slots) < most and (num_rows(chosen) < self.num_rows or len(slots) + len(jobs) <= most):
            job = jobs.popleft()
            if max(len(job.guided), len(job.plain)) > self.num_rows:
                raise ValueError(f"a job needs {len(job.guided)} rows, a call has {self.num_rows}")
            slots.append(Slot.of(job))
            chosen = self._chosen(slots, jobs)
        return chosen

    def _waits(self, slot: Slot) -> bool:
        return self.judge is not None and slot.awaits_preview

    def _judged(self, waiting: Sequence[Slot], slots: list[Slot]) -> Iterator[Result]:
        """Judge slots, and take those that are dropped out of all the slots."""
        assert self.judge is not None
        self.calls["previews"] += len(waiting)
        states = torch.stack([slot.state for slot in waiting])
        for slot, goes_on in zip(waiting, self.judge([slot.job for slot in waiting], states), strict=True):
            slot.job = replace(slot.job, preview_after=None)
            if not goes_on:
                slots.remove(slot)
                yield Result(job=slot.job, latents=None, num_steps=slot.step)

    def _chosen(self, slots: Sequence[Slot], jobs: Sequence[DenoiseJob]) -> list[Slot]:
        """Choose the slots that make a step: all of the whole UNet or all on cached features, whichever has more rows.

        First come, first served while jobs remain, afterwards longest remaining first.
        """
        if not jobs:
            slots = sorted(slots, key=lambda slot: slot.step - slot.job.trajectory.num_steps)
        ready = [slot for slot in slots if not self._waits(slot)]
        whole = self._fitting([slot for slot in ready if self._is_whole(slot)])
        cached = self._fitting([slot for slot in ready if not self._is_whole(slot)])
        return whole if num_rows(whole) >= num_rows(cached) else cached

    def _fitting(self, slots: Sequence[Slot]) -> list[Slot]:
        """Return slots in their order, leaving out each whose rows no longer fit into a call."""
        fitting: list[Slot] = []
        left = self.num_rows
        for slot in slots:
            if len(slot.terms) <= left:
                fitting.append(slot)
                left -= len(slot.terms)
        return fitting

    def _is_whole(self, slot: Slot) -> bool:
        """Return whether the next step of a slot runs the whole UNet; it depends on that slot alone."""
        return slot.step % self.deep_cache_interval == 0 or len(slot.deep) != len(slot.terms)

    def _tick(self, slots: Sequence[Slot]) -> None:
        self.calls.update(ticks=1, rows=self.num_rows, useful_rows=num_rows(slots))
        states = torch.stack([slot.state for slot in slots])
        inputs = unet_inputs(slots, states, self.num_rows)
        deep = [self._deep(slots)] if self.deep_cache_interval > 1 else []
        outputs = self.denoise(*inputs, *deep)
        make_step(slots, states, outputs)

    def _deep(self, slots: Sequence[Slot]) -> list[DeepFeatures]:
        """Return the deep features of each row of a call, to be computed or to be used."""
        is_whole = self._is_whole(slots[0])
        for slot in slots:
            if is_whole:
                slot.deep = [DeepFeatures() for _ in slot.terms]
            else:
                slot.deep = [replace(features, is_new=False) for features in slot.deep]
        rows = [features for slot in slots for features in slot.deep]
        self.calls["kept_rows"] += 0 if is_whole else len(rows)
        return rows + rows[-1:] * (self.num_rows - len(rows))
