"""Calls that run out of memory: a tiny UNet of the real class with a limit of rows in place of a small GPU."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from denoise_jobs import mixture
from tiny_pipelines import tiny_unet

from actors.editor.slots.batcher import SlotBatcher
from actors.editor.slots.memory import Fitted, rows_that_pay
from actors.editor.slots.unet import Prompt
from actors.models.device import fix_threads
from engine.errors import ModelError

NUM_ROWS = 8


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@dataclass
class SmallGpu:
    """Run a tiny UNet in bfloat16, or raise what torch raises where a call has more than `limit` rows.

    The error ends after `num_errors` calls, as where a neighbour leaves the GPU. With `shapes_matter` the bits of a row
    depend on the rows of its call.
    """

    limit: int = NUM_ROWS
    num_errors: int = 1 << 30
    shapes_matter: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.unet = tiny_unet(8)
        self.shapes: list[int] = []

    def __call__(self, latents: torch.Tensor, times: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        if len(latents) > self.limit and self.num_errors > 0:
            self.num_errors -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.shapes.append(len(latents))
        embeddings = torch.stack([prompt.embedding for prompt in prompts])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = self.unet(latents, times, encoder_hidden_states=embeddings, return_dict=False)[0].float()
        return output + len(latents) * 1e-6 if self.shapes_matter else output


def example(num_rows: int = NUM_ROWS) -> tuple[torch.Tensor, torch.Tensor, list[Prompt]]:
    chance = torch.Generator().manual_seed(0)
    latents = torch.randn(num_rows, 8, 8, 8, generator=chance)
    return (
        latents,
        torch.linspace(0, 999, num_rows),
        [Prompt(embedding=torch.randn(7, 32, generator=chance))] * num_rows,
    )


def edits(denoise: Fitted) -> dict[str, torch.Tensor]:
    results = SlotBatcher(denoise=denoise, num_rows=NUM_ROWS).run(deque(mixture()))
    return {item.job.key: item.latents for item in results if item.latents is not None}


@pytest.mark.parametrize("limit", [6, 3, 1])
def test_memory_that_runs_out_halves_the_calls_and_changes_no_bit(limit: int) -> None:
    with torch.inference_mode():
        plenty, little = (Fitted(SmallGpu(), example(), name="UNet") for _ in range(2))
        wanted = edits(plenty)
        assert isinstance(little._run, SmallGpu)
        little._run.limit = limit
        found = edits(little)
    assert set(little._run.shapes[1:]) == {max(size for size in (4, 2, 1) if size <= limit)}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@torch.inference_mode()
def test_memory_that_a_neighbour_gives_back_costs_one_try() -> None:
    gpu = SmallGpu()
    denoise = Fitted(gpu, example(), name="UNet")
    gpu.limit, gpu.num_errors = 3, 1
    wanted = denoise(*example())
    assert gpu.shapes == [NUM_ROWS, NUM_ROWS]
    assert torch.equal(wanted, SmallGpu()(*example()))


@torch.inference_mode()
def test_smaller_calls_that_give_other_bits_are_refused_with_what_to_do() -> None:
    gpu = SmallGpu(shapes_matter=True)
    denoise = Fitted(gpu, example(), name="UNet of tiny")
    gpu.limit = 4
    with pytest.raises(ModelError, match="UNet of tiny: out of memory with 8 rows a call, and 4 give other bits: set"):
        denoise(*example())


@torch.inference_mode()
def test_what_never_fitted_starts_with_fewer_rows_a_call() -> None:
    gpu = SmallGpu(limit=5)
    denoise = Fitted(gpu, example(), name="UNet")
    assert denoise.num_rows == 4
    output = denoise(*(rows[:7] for rows in example()))
    assert gpu.shapes == [4] * 4
    assert torch.equal(output, SmallGpu()(*example())[:7])


def test_a_row_that_never_fits_is_an_error_that_says_so() -> None:
    with pytest.raises(ModelError, match="a single row does not fit"):
        Fitted(SmallGpu(limit=0), example(), name="UNet")


@pytest.mark.parametrize(
    ("milliseconds", "wanted"),
    [
        ({1: 10, 2: 11, 4: 14, 8: 28, 16: 56}, 4),  # full from four on, as small pictures
        ({1: 10, 2: 20, 4: 40, 8: 80, 16: 160}, 1),  # full with one, as large ones
        ({1: 10, 2: 11, 4: 13, 8: 17}, 8),  # 16 do not fit
        ({1: 10, 2: 11, 4: 13, 8: 17, 16: 26}, 16),
    ],
)
def test_a_call_gets_the_fewest_rows_that_are_about_as_fast(milliseconds: dict[int, float], wanted: int) -> None:
    def seconds(num_rows: int) -> float:
        if num_rows not in milliseconds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return milliseconds[num_rows] / 1000

    assert rows_that_pay(seconds, 16) == wanted
