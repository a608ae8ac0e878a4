"""The slot batcher: each edit at its own step, guidance and length, one UNet call of a fixed shape a tick."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike

from actors.editor.slots.deep_features import Deep
from actors.editor.slots.trajectory import Trajectory, table_sums
from actors.models.device import upload

# What a slot keeps between steps, by their names in the solvers: latents, last, data_1, data_2.
NUM_KEPT = 4
DATA = 2


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Hold what a UNet is told: embedding (num_tokens, dim), and of SDXL pooled (dim,) and time_ids (6,)."""

    embedding: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold one row of the UNet for a step of an edit: the guided output is the sum of the rows' outputs by `weight`.

    `condition` (channels, height, width) goes behind the latents: a source's latents, a mask.
    """

    weight: float
    prompt: Prompt
    condition: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Say what of an edit stays as its source is: where `mask` (1, height, width) is 0, latents are the source's."""

    mask: torch.Tensor
    clean: torch.Tensor
    noise: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Order:
    """Ask for one edit: from `latents` (channels, height, width) along a trajectory.

    The rows are `guided` in the steps from number guided_steps[0] to before guided_steps[1], else `plain`. `generator`
    gives fresh noise, `data` clean latents to a first step that looks back. The judge is asked after `preview_after`.
    """

    key: str
    latents: torch.Tensor
    trajectory: Trajectory
    guided: tuple[Row, ...]
    plain: tuple[Row, ...] = ()
    guided_steps: tuple[int, int] = (0, 1 << 30)
    kept: Kept | None = None
    generator: torch.Generator | None = None
    preview_after: int | None = None
    data: torch.Tensor | None = None

    def rows(self, step: int) -> tuple[Row, ...]:
        """Return the rows of one step."""
        first, end = self.guided_steps
        return self.guided if first <= step < end or not self.plain else self.plain

    @property
    def num_row_steps(self) -> int:
        """Return how many rows its steps need in all."""
        return sum(len(self.rows(step)) for step in range(self.trajectory.num_steps))


@dataclass(frozen=True, kw_only=True)
class Result:
    """Hold the latents (channels, height, width) of an order that has ended; None where the judge dropped it."""

    order: Order
    latents: torch.Tensor | None
    num_steps: int


class Denoise(Protocol):
    """Run the UNet once; a batcher that keeps deep features calls it with those of each row too."""

    def __call__(
        self, latents: torch.Tensor, times: torch.Tensor, prompts: Sequence[Prompt], /, *deep: Sequence[Deep]
    ) -> torch.Tensor:
        """Return the outputs (num_rows, channels, height, width), float32, for latents with their conditions."""
        ...


# Given orders with their states, (num_orders, NUM_KEPT, channels, height, width), say which go on.
Judge = Callable[[Sequence[Order], torch.Tensor], Sequence[bool]]


@dataclass
class Slot:
    """Hold an order that is under way: `state` is (NUM_KEPT, channels, height, width), float32."""

    order: Order
    state: torch.Tensor
    step: int = 0
    is_parked: bool = False
    deep: Sequence[Deep] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """Return the rows of the next step."""
        return self.order.rows(self.step)

    @property
    def wants_preview(self) -> bool:
        """Return whether the judge is to be asked before the next step."""
        return self.step == self.order.preview_after


@dataclass
class SlotBatcher:
    """Bring orders to their ends, any mixture at once, in UNet calls of `num_rows` rows.

    A tick gives rows to slots in the order of their coming as long as there are some, and each slot that got its rows
    makes one step; a slot that is done makes room at once. The last ones take turns and end together, or more and more
    rows would be empty (McNaughton 1959). Unused rows repeat the last one, so that all calls have one shape and a
    result does not depend on its neighbours. `judge` is asked about `judge_batch` previews at a time. Nothing in a tick
    waits for a GPU: the next one is under way to it before this one is done.

    With a `deep_cache_interval` above 1 a slot keeps deep features for so many steps; all the slots of a tick then make
    theirs anew or none does. `calls` counts ticks, and rows that were run, useful, and useful on kept features.
    """

    denoise: Denoise
    num_rows: int
    judge: Judge | None = None
    judge_batch: int = 1
    deep_cache_interval: int = 1
    calls: Counter[str] = field(default_factory=Counter)

    def run(self, orders: deque[Order]) -> Iterator[Result]:
        """Take the orders from the left, long ones first, and yield a result for each as it ends; more may be added."""
        slots: list[Slot] = []
        while True:
            chosen = self._fill(slots, orders)
            if not slots:
                return
            parked = [slot for slot in slots if slot.is_parked]
            if len(parked) >= self.judge_batch or (parked and _num_rows(chosen) < self.num_rows):
                yield from self._judged(parked[: self.judge_batch], slots)
                continue
            with torch.inference_mode():
                self._tick(chosen)
            for slot in [slot for slot in chosen if slot.step == slot.order.trajectory.num_steps]:
                slots.remove(slot)
                yield Result(order=slot.order, latents=slot.state[0], num_steps=slot.step)

    def _fill(self, slots: list[Slot], orders: deque[Order]) -> list[Slot]:
        """Take orders in until their rows fill a call to the last one, and return the slots that make a step."""
        for slot in slots:
            slot.is_parked = slot.is_parked or (self.judge is not None and slot.wants_preview)
        chosen = self._chosen(slots, orders)
        # Twice as many as can be run: among so many there is one that fits into what is left, and the last ones all.
        most = 2 * self.num_rows + self.judge_batch
        while orders and len(slots) < most and (_num_rows(chosen) < self.num_rows or len(slots) + len(orders) <= most):
            order = orders.popleft()
            if max(len(order.guided), len(order.plain)) > self.num_rows:
                raise ValueError(f"an order needs {len(order.guided)} rows, a call has {self.num_rows}")
            state = torch.zeros(NUM_KEPT, *order.latents.shape, device=order.latents.device)
            state[0] = order.latents
            state[DATA] = 0 if order.data is None else order.data
            slots.append(Slot(order=order, state=state))
            chosen = self._chosen(slots, orders)
        return chosen

    def _judged(self, parked: Sequence[Slot], slots: list[Slot]) -> Iterator[Result]:
        """Judge slots: let those go on that may, and take the others out of all the slots."""
        assert self.judge is not None
        self.calls["previews"] += len(parked)
        states = torch.stack([slot.state for slot in parked])
        for slot, goes_on in zip(parked, self.judge([slot.order for slot in parked], states), strict=True):
            slot.is_parked = False
            slot.order = replace(slot.order, preview_after=None)
            if not goes_on:
                slots.remove(slot)
                yield Result(order=slot.order, latents=None, num_steps=slot.step)

    def _chosen(self, slots: Sequence[Slot], orders: Sequence[Order]) -> list[Slot]:
        """Return the slots that make a step: the first, at the end those with most to do, and who fits beside them."""
        if not orders:
            slots = sorted(slots, key=lambda slot: slot.step - slot.order.trajectory.num_steps)
        kinds: dict[bool, list[Slot]] = {True: [], False: []}
        left = dict.fromkeys(kinds, self.num_rows)
        for slot in slots:
            if len(slot.rows) <= left[is_whole := self._is_whole(slot)] and not slot.is_parked:
                kinds[is_whole].append(slot)
                left[is_whole] -= len(slot.rows)
        return kinds[left[True] <= left[False]]

    def _is_whole(self, slot: Slot) -> bool:
        """Return whether the next step of a slot runs the whole UNet, by what is known of the slot alone."""
        return slot.step % self.deep_cache_interval == 0 or len(slot.deep) != len(slot.rows)

    def _tick(self, slots: Sequence[Slot]) -> None:
        rows = [(index, row) for index, slot in enumerate(slots) for row in slot.rows]
        self.calls.update(ticks=1, rows=self.num_rows, useful_rows=len(rows))
        padded = rows + [rows[-1]] * (self.num_rows - len(rows))
        states = torch.stack([slot.state for slot in slots])
        owners = [index for index, _ in padded]
        scales = [slots[index].order.trajectory.input_scales[slots[index].step] for index in owners]
        inputs = states[:, 0][_numbers(owners, states)] * _column(scales, states)
        if padded[0][1].condition is not None:
            inputs = torch.cat([inputs, torch.stack([row.condition for _, row in padded])], dim=1)  # type: ignore[misc]  # all rows have one or none has
        times = _numbers([slots[index].order.trajectory.times[slots[index].step] for index in owners], states)
        outputs = self.denoise(inputs, times, [row.prompt for _, row in padded], *self._deep(slots))
        _advance(slots, states, _guided(slots, outputs, [row.weight for _, row in rows]))

    def _deep(self, slots: Sequence[Slot]) -> Iterator[Sequence[Deep]]:
        """Yield what each row of a call keeps, or is to keep; nothing if none does."""
        if self.deep_cache_interval == 1:
            return
        is_whole = self._is_whole(slots[0])
        for slot in slots:
            slot.deep = [Deep() for _ in slot.rows] if is_whole else [replace(row, is_new=False) for row in slot.deep]
        rows = [row for slot in slots for row in slot.deep]
        self.calls["kept_rows"] += len(rows) * (not is_whole)
        yield rows + rows[-1:] * (self.num_rows - len(rows))


def _num_rows(slots: Sequence[Slot]) -> int:
    return sum(len(slot.rows) for slot in slots)


def _guided(slots: Sequence[Slot], outputs: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Return the outputs of each slot's rows added up by their weights, (num_slots, channels, height, width).

    No index_add: on a GPU its order of addition, and so the last bits, would change from run to run.
    """
    weighted = outputs[: len(weights)] * _column(weights, outputs)
    starts = np.cumsum([0, *(len(slot.rows) for slot in slots[:-1])])
    result = weighted[_numbers(starts, outputs)]
    for offset in range(1, max(len(slot.rows) for slot in slots)):
        more = np.array([index for index, slot in enumerate(slots) if len(slot.rows) > offset])
        places = _numbers(more, outputs)
        result[places] = result[places] + weighted[_numbers(starts[more] + offset, outputs)]
    return result


def _advance(slots: Sequence[Slot], states: torch.Tensor, outputs: torch.Tensor) -> None:
    """Make each slot's step: its table's sums of what it kept, the output and fresh noise."""
    table = _numbers([slot.order.trajectory.table[slot.step] for slot in slots], states).float()
    latents, last, data_1, data_2 = states.unbind(1)
    after, data, corrected = table_sums(table, [latents, outputs, last, data_1, data_2, _noise(slots, states)])
    kept = torch.stack([_with_source(slots, after), corrected, data, data_1], dim=1)
    for slot, state in zip(slots, kept, strict=True):
        slot.state = state
        slot.step += 1


def _noise(slots: Sequence[Slot], states: torch.Tensor) -> torch.Tensor | None:
    """Return fresh noise for the slots whose step wants some, from the generator of each, else zeros; None for none."""
    wanted = [bool(slot.order.trajectory.needs_noise[slot.step]) for slot in slots]
    if not any(wanted):
        return None
    shape = states.shape[2:]
    # Drawn on the CPU, where a seed gives the same numbers whatever the GPU.
    drawn = [
        torch.randn(shape, generator=slot.order.generator) if wants else torch.zeros(shape)
        for slot, wants in zip(slots, wanted, strict=True)
    ]
    return upload(torch.stack(drawn), states.device)


def _with_source(slots: Sequence[Slot], latents: torch.Tensor) -> torch.Tensor:
    """Return the latents with those of the source, as noisy as they are, where an order keeps it.

    The blended latents of Avrahami et al. 2023, as the inpainting of models without a mask of their own.
    """
    for index, slot in enumerate(slots):
        if (kept := slot.order.kept) is not None:
            step = slot.step + 1
            alpha, sigma = slot.order.trajectory.levels[step] if step < slot.order.trajectory.num_steps else (1.0, 0.0)
            source = float(alpha) * kept.clean + float(sigma) * kept.noise
            latents[index] = (1 - kept.mask) * source + kept.mask * latents[index]
    return latents


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Return (num_values, 1, 1, 1), float32."""
    return _numbers(values, like).float()[:, None, None, None]


def _numbers(values: ArrayLike, like: torch.Tensor) -> torch.Tensor:
    """Return float64 or int64 numbers where another tensor is."""
    return upload(torch.from_numpy(np.array(values)), like.device)
