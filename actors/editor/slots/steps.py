"""One step of the edits in the slots: their UNet rows, the guided output, the solver's update, the masked blend."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from actors.editor.samplers.trajectory import Trajectory, table_sums
from actors.editor.slots.unet import DeepFeatures, Prompt
from actors.models.device import upload
from actors.models.low_rank import ScaledAdapter

# The tensors that a slot keeps between steps, by their names in the solvers: latents, last, data_1, data_2.
NUM_KEPT = 4
DATA = 2


@dataclass(frozen=True, kw_only=True)
class GuidanceTerm:
    """One UNet row of a step: the guided output is the sum of the rows' outputs times `weight`.

    `condition` (channels, height, width) are input channels behind the latents: a source's latents, a mask.
    """

    weight: float
    prompt: Prompt
    condition: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class MaskedBlend:
    """Keep the source where `mask` (1, height, width) is 0: `clean` latents, with `noise` at the level of each step."""

    mask: torch.Tensor
    clean: torch.Tensor
    noise: torch.Tensor

    def latents(self, alpha: float, sigma: float) -> torch.Tensor:
        """Return the source's latents at a noise level."""
        return alpha * self.clean + sigma * self.noise


@dataclass(frozen=True, kw_only=True)
class DenoiseJob:
    """Denoise `latents` (channels, height, width) along a trajectory.

    Steps guided_steps[0] to guided_steps[1] - 1 have the terms `guided`, the others `plain`, if there are any.
    Fresh noise comes from `generator`, or is `noises` (num_steps, channels, height, width), on the CPU. `data` are the
    predicted clean latents for a first step that uses an earlier prediction.
    After `preview_after` steps the job waits for the batcher's judge. All rows of steps adapter_steps[0] to
    adapter_steps[1] - 1 have the `adapter`.
    """

    key: str
    latents: torch.Tensor
    trajectory: Trajectory
    guided: tuple[GuidanceTerm, ...]
    plain: tuple[GuidanceTerm, ...] = ()
    guided_steps: tuple[int, int] = (0, 1 << 30)
    blend: MaskedBlend | None = None
    generator: torch.Generator | None = None
    noises: torch.Tensor | None = None
    preview_after: int | None = None
    data: torch.Tensor | None = None
    adapter: ScaledAdapter | None = None
    adapter_steps: tuple[int, int] = (0, 1 << 30)

    def terms(self, step: int) -> tuple[GuidanceTerm, ...]:
        """Return the guidance terms of one step."""
        first, end = self.guided_steps
        return self.guided if first <= step < end or not self.plain else self.plain

    def noise(self, step: int) -> torch.Tensor:
        """Return the fresh noise of one step, (channels, height, width), on the CPU."""
        if self.noises is not None:
            return self.noises[step]
        return torch.randn(self.latents.shape, generator=self.generator)

    def prompt(self, term: GuidanceTerm, step: int) -> Prompt:
        """Return the prompt of a term's row in one step, with the adapter where that acts."""
        first, end = self.adapter_steps
        has_adapter = self.adapter is not None and first <= step < end
        return replace(term.prompt, adapter=self.adapter) if has_adapter else term.prompt

    @property
    def num_row_steps(self) -> int:
        """Return the number of UNet rows of all steps together."""
        return sum(len(self.terms(step)) for step in range(self.trajectory.num_steps))


@dataclass
class Slot:
    """A job under way: `state` is (NUM_KEPT, channels, height, width), float32."""

    job: DenoiseJob
    state: torch.Tensor
    step: int = 0
    deep: Sequence[DeepFeatures] = ()

    @classmethod
    def of(cls, job: DenoiseJob) -> "Slot":
        """Return a slot before the first step of a job."""
        state = torch.zeros(NUM_KEPT, *job.latents.shape, device=job.latents.device)
        state[0] = job.latents
        state[DATA] = 0 if job.data is None else job.data
        return cls(job=job, state=state)

    @property
    def terms(self) -> tuple[GuidanceTerm, ...]:
        """Return the guidance terms of the next step."""
        return self.job.terms(self.step)

    @property
    def awaits_preview(self) -> bool:
        """Return whether the job is to be judged before its next step."""
        return self.step == self.job.preview_after

    @property
    def is_done(self) -> bool:
        """Return whether all steps are made."""
        return self.step == self.job.trajectory.num_steps


def num_rows(slots: Sequence[Slot]) -> int:
    """Return the number of UNet rows of the next step of some slots."""
    return sum(len(slot.terms) for slot in slots)


def unet_inputs(
    slots: Sequence[Slot], states: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, list[Prompt]]:
    """Return latents with their conditions, times and prompts for a UNet call of `size` rows.

    `states` are those of the slots, (num_slots, NUM_KEPT, channels, height, width). Missing rows repeat the last one.
    """
    rows = [(index, term) for index, slot in enumerate(slots) for term in slot.terms]
    rows += [rows[-1]] * (size - len(rows))
    owners = [index for index, _ in rows]
    scales = [slots[index].job.trajectory.input_scales[slots[index].step] for index in owners]
    times = [slots[index].job.trajectory.times[slots[index].step] for index in owners]
    latents = states[:, 0][_numbers(owners, states)] * _column(scales, states)
    # All rows have a condition or none has.
    if conditions := [term.condition for _, term in rows if term.condition is not None]:
        latents = torch.cat([latents, torch.stack(conditions)], dim=1)
    prompts = [slots[index].job.prompt(term, slots[index].step) for index, term in rows]
    return latents, _numbers(times, states), prompts


def make_step(slots: Sequence[Slot], states: torch.Tensor, outputs: torch.Tensor) -> None:
    """Advance each slot by a step: the sums of its table over its state, the guided output and fresh noise.

    `outputs` are the UNet's, of the rows in the order of the slots and of unused ones.
    """
    table = _numbers([slot.job.trajectory.table[slot.step] for slot in slots], states).float()
    latents, last, data_1, data_2 = states.unbind(1)
    terms = [latents, _guided(slots, outputs), last, data_1, data_2, _noise(slots, states)]
    after, data, corrected = table_sums(table, terms)
    kept = torch.stack([_blended(slots, after), corrected, data, data_1], dim=1)
    for slot, state in zip(slots, kept, strict=True):
        slot.state = state
        slot.step += 1


def _guided(slots: Sequence[Slot], outputs: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of each slot's outputs, (num_slots, channels, height, width).

    No index_add: on a GPU its order of addition, and so the last bits, would change from run to run.
    """
    weights = [term.weight for slot in slots for term in slot.terms]
    weighted = outputs[: len(weights)] * _column(weights, outputs)
    counts = [len(slot.terms) for slot in slots]
    starts = np.cumsum([0, *counts[:-1]])
    result = weighted[_numbers(starts, outputs)]
    for offset in range(1, max(counts)):
        more = np.array([index for index, count in enumerate(counts) if count > offset])
        places = _numbers(more, outputs)
        result[places] = result[places] + weighted[_numbers(starts[more] + offset, outputs)]
    return result


def _noise(slots: Sequence[Slot], states: torch.Tensor) -> torch.Tensor | None:
    """Return fresh noise for the slots whose step needs it, each its own job's, and zeros for the others.

    None if no slot needs any.
    """
    needed = [slot.job.trajectory.needs_noise(slot.step) for slot in slots]
    if not any(needed):
        return None
    shape = states.shape[2:]
    # Drawn on the CPU, where a seed gives the same numbers whatever the GPU.
    drawn = [
        slot.job.noise(slot.step) if needs else torch.zeros(shape) for slot, needs in zip(slots, needed, strict=True)
    ]
    return upload(torch.stack(drawn), states.device)


def _blended(slots: Sequence[Slot], latents: torch.Tensor) -> torch.Tensor:
    """Return the latents after the step, with those of the source at the same noise level where a job keeps it.

    Blended latent diffusion (Avrahami et al. 2023): inpainting for UNets without channels for a mask.
    """
    for index, slot in enumerate(slots):
        if (blend := slot.job.blend) is not None:
            step, trajectory = slot.step + 1, slot.job.trajectory
            alpha, sigma = trajectory.levels[step] if step < trajectory.num_steps else (1.0, 0.0)
            source = blend.latents(float(alpha), float(sigma))
            latents[index] = (1 - blend.mask) * source + blend.mask * latents[index]
    return latents


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Return numbers as (num_values, 1, 1, 1), float32, on the device of `like`."""
    return _numbers(values, like).float()[:, None, None, None]


def _numbers(values: ArrayLike, like: torch.Tensor) -> torch.Tensor:
    """Return numbers as a float64 or int64 tensor on the device of `like`."""
    return upload(torch.from_numpy(np.array(values)), like.device)
