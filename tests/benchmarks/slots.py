"""The slot batcher: rows that do useful work, inputs that are encoded once, and what one inversion a source saves.

The UNet is tiny and its weights are random, batcher and pipelines are the real ones: shares of rows and counts of calls
do not depend on what a row costs.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_pipelines import save_stable_diffusion

from actors.editor.pipelines.jobs import EditJob
from actors.editor.pipelines.loading import load_pipeline
from actors.editor.samplers.trajectory import make_trajectory
from actors.editor.slots.batcher import SlotBatcher
from actors.editor.slots.drawing import SlotDrawing
from actors.editor.slots.steps import DenoiseJob, GuidanceTerm
from actors.editor.slots.unet import Prompt
from actors.images.frame import Frame
from actors.models.device import fix_threads
from actors.models.files import resolve_model
from actors.models.untyped import Model
from engine.figures.figures import Figure
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig
from engine.sample import Edit, Sample
from tests.benchmarks.pairs import ratio_figure

NUM_ROWS = 16
STRENGTHS = (0.3, 0.9)
STEPS = (20, 30, 50)
SIZE = 32
NUM_SOURCES, EDITS_EACH = 2, 8
# Of 16 prompts so many are distinct: the others come again at another source.
NUM_PROMPTS = 11
CPU = torch.device("cpu")


def slot_figures(folder: Path) -> Iterator[Figure]:
    """Yield figures 5 and 7; models are saved into `folder`."""
    fix_threads(1)
    yield from _occupancy()
    yield from _reuse(folder / "model")


def _occupancy() -> Iterator[Figure]:
    """Yield the share of the UNet's rows that are useful, with mixed strengths, steps and guidance."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    for num_orders, target in ((1024, 0.99), (128, 0.91)):
        orders = _mixed_orders(scheduler, num_orders)
        batcher = SlotBatcher(denoise=_Nothing(), num_rows=NUM_ROWS)
        num_ended = sum(
            1 for _ in batcher.run(deque(sorted(orders, key=lambda order: order.num_row_steps, reverse=True)))
        )
        assert num_ended == num_orders
        useful, run = batcher.calls["useful_rows"], batcher.calls["rows"]
        assert useful == sum(order.num_row_steps for order in orders)
        yield Figure(
            name=f"slots.useful_rows_{num_orders}", value=useful / run, target=target, better="higher", n=num_orders
        )
        yield Figure(name=f"slots.useful_rows_{num_orders}.padded", value=useful / _padded(orders), n=num_orders)
        yield Figure(name=f"slots.useful_rows_{num_orders}.bucketed", value=useful / _bucketed(orders), n=num_orders)


class _Nothing:
    """Stand where the UNet is: of this figure only the number of its rows matters."""

    def __call__(self, latents: torch.Tensor, times: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        return latents


def _mixed_orders(scheduler: Model, num_orders: int) -> list[DenoiseJob]:
    chance = np.random.default_rng(num_orders)
    prompt = Prompt(embedding=torch.zeros(1, 1))
    orders = []
    for number in range(num_orders):
        num_steps = int(chance.choice(STEPS))
        skipped = num_steps - max(1, int(num_steps * chance.uniform(*STRENGTHS)))
        weights = (1.0,) if chance.random() < 0.5 else (-6.5, 7.5)
        orders.append(
            DenoiseJob(
                key=str(number),
                latents=torch.zeros(1, 2, 2),
                trajectory=make_trajectory(scheduler, num_steps, skipped=skipped),
                guided=tuple(GuidanceTerm(weight=weight, prompt=prompt) for weight in weights),
            )
        )
    return orders


def _padded(orders: Sequence[DenoiseJob]) -> int:
    """Return the rows of batches as they come, each image as many steps and rows as the longest of its batch."""
    rows = 0
    for start in range(0, len(orders), NUM_ROWS // 2):
        batch = orders[start : start + NUM_ROWS // 2]
        rows += NUM_ROWS * max(order.trajectory.num_steps for order in batch)
    return rows


def _bucketed(orders: Sequence[DenoiseJob]) -> int:
    """Return the rows of batches of one number of steps and one guidance, the last of each kind filled up."""
    kinds: dict[tuple[int, int], int] = {}
    for order in orders:
        kind = order.trajectory.num_steps, len(order.guided)
        kinds[kind] = kinds.get(kind, 0) + 1
    return sum(-(-count * width // NUM_ROWS) * NUM_ROWS * num_steps for (num_steps, width), count in kinds.items())


def _reuse(folder: Path) -> Iterator[Figure]:
    config = EditorConfig(
        model=ModelConfig(name=str(save_stable_diffusion(folder, "img2img"))), method="img2img", inversion=True,
        num_inference_steps=10, strength=1.0, guidance_scale=5.0, batch_size=1,
    )  # fmt: skip
    pipeline, strategy = load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    jobs = [_job(source, source * EDITS_EACH + edit) for source in range(NUM_SOURCES) for edit in range(EDITS_EACH)]
    drawing = SlotDrawing(pipeline, strategy, config, SIZE)
    assert sum(1 for _ in drawing.edits(jobs)) == len(jobs)
    texts = {job.edit.caption for job in jobs} | {job.sample.caption for job in jobs} | {""}
    for name, wanted in (("encoded", NUM_SOURCES), ("inversions", NUM_SOURCES), ("prompts", len(texts))):
        calls = drawing.calls[name] / wanted
        yield Figure(name=f"reuse.{name}_a_distinct_input", value=calls, target=1.0, better="lower", n=wanted)
    yield from _inversion_saving(drawing, jobs)


def _inversion_saving(drawing: SlotDrawing, jobs: Sequence[EditJob]) -> Iterator[Figure]:
    """Yield how many calls, and how much time, one inversion for each edit takes of those with one a source.

    Calls have two rows, which two sources fill; so few would leave most of a larger call empty.
    """
    # As sources of their own: what nobody shares is made again.
    alone = [replace(job, sample=replace(job.sample, source_key=job.sample.key)) for job in jobs]

    def ticks(wanted: Sequence[EditJob]) -> int:
        before = drawing.calls["ticks"]
        assert sum(1 for _ in drawing.edits(wanted)) == len(jobs)
        return drawing.calls["ticks"] - before

    calls = ticks(alone) / ticks(jobs)
    yield Figure(name="reuse.times_calls_inversion_each", value=calls, target=1.38, better="higher", unit="times")
    yield ratio_figure(
        "reuse.times_inversion_each",
        lambda: ticks(jobs),
        lambda: ticks(alone),
        1.38,
        num_rounds=15,
        clock=time.process_time,
    )


def _job(source: int, number: int) -> EditJob:
    pixels = np.random.default_rng(source).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    caption = f"a shoe on {number * 7919 % NUM_PROMPTS}"
    edit = Edit(kind="background", before="grass", after="sand", instruction="", caption=caption)
    sample = Sample(
        key=f"s{source}_cf{number:02d}", source_key=f"s{source}", role="counterfactual", image=b"", label=0,
        class_name="shoe", split="train", caption=f"a shoe, number {source}", edit=edit,
    )  # fmt: skip
    frame = Frame(pixels=pixels, top=0, left=0, height=SIZE, width=SIZE)
    return EditJob(sample=sample, edit=edit, frame=frame, caption=sample.caption, seed=source)
