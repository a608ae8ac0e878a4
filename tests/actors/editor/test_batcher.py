"""The slot batcher on a tiny UNet of the real class: whatever shares a batch, an edit comes out the same."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from denoise_jobs import SAMPLERS, mixture, order
from tiny_pipelines import tiny_unet

from actors.editor.samplers.inversion import invert_ddim
from actors.editor.samplers.trajectory import make_trajectory
from actors.editor.slots.batcher import SlotBatcher
from actors.editor.slots.steps import NUM_KEPT, DenoiseJob, GuidanceTerm, MaskedBlend
from actors.editor.slots.unet import Prompt
from actors.models.device import fix_threads


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


class Denoiser:
    """Run a tiny UNet, and note the shape of every call."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.unet = tiny_unet(8)
        self.shapes: set[tuple[int, ...]] = set()

    def __call__(self, latents: torch.Tensor, times: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        self.shapes.add(tuple(latents.shape))
        embeddings = torch.stack([prompt.embedding for prompt in prompts])
        return self.unet(latents, times, encoder_hidden_states=embeddings, return_dict=False)[0]


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return Denoiser()


def run(denoiser: Denoiser, orders: Sequence[DenoiseJob], num_rows: int = 6) -> dict[str, torch.Tensor]:
    results = SlotBatcher(denoise=denoiser, num_rows=num_rows).run(deque(orders))
    return {item.job.key: item.latents for item in results if item.latents is not None}


def test_an_edit_is_bit_identical_alone_in_a_full_batch_and_in_another_slot(denoiser: Denoiser) -> None:
    together = run(denoiser, list(mixture()))
    backwards = run(denoiser, list(mixture())[::-1])
    assert len(together) == 15
    for item in mixture():
        alone = run(denoiser, [item])[item.key]
        assert torch.equal(alone, together[item.key])
        assert torch.equal(alone, backwards[item.key])
    assert len({float(latents.sum()) for latents in together.values()}) == 15  # so equality says something


def test_all_calls_have_one_shape(denoiser: Denoiser) -> None:
    denoiser.shapes.clear()
    run(denoiser, list(mixture()))
    assert denoiser.shapes == {(6, 8, 8, 8)}


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_it_makes_what_a_loop_over_the_scheduler_makes(denoiser: Denoiser, sampler: str, scale: float) -> None:
    wanted = order(3, sampler, num_steps=8, scale=scale)
    scheduler = type(SAMPLERS[sampler]).from_config(SAMPLERS[sampler].config)
    scheduler.set_timesteps(8)
    latents, chance = wanted.latents[None], torch.Generator().manual_seed(3)
    with torch.inference_mode():
        for time in scheduler.timesteps:
            inputs = scheduler.scale_model_input(latents, time)
            outputs = [
                denoiser(torch.cat([inputs, row.condition[None]], 1), time[None].float(), [row.prompt])
                for row in wanted.guided
            ]
            guided = outputs[0] if len(outputs) == 1 else outputs[0] + scale * (outputs[1] - outputs[0])
            settings = {"generator": chance} if sampler == "ancestral" else {}
            latents = scheduler.step(guided, time, latents, **settings).prev_sample
    ours = run(denoiser, [wanted])[wanted.key]
    assert float((ours - latents[0]).abs().max() / latents.abs().max()) < 1e-5


def test_long_edits_first_leaves_few_rows_empty(denoiser: Denoiser) -> None:
    chance = np.random.default_rng(0)
    orders = [order(seed, num_steps=20, skipped=int(20 * (1 - chance.uniform(0.3, 0.9)))) for seed in range(48)]
    batcher = SlotBatcher(denoise=denoiser, num_rows=6)
    list(batcher.run(deque(sorted(orders, key=lambda item: item.num_row_steps, reverse=True))))
    assert batcher.calls["useful_rows"] == sum(item.num_row_steps for item in orders)
    assert batcher.calls["useful_rows"] / batcher.calls["rows"] > 0.97


@pytest.mark.parametrize(("count", "num_rows"), [(11, 4), (23, 8)])
def test_the_last_edits_take_turns_so_that_no_row_is_empty(denoiser: Denoiser, count: int, num_rows: int) -> None:
    orders = [order(seed, num_steps=8) for seed in range(count)]
    batcher = SlotBatcher(denoise=denoiser, num_rows=num_rows)
    results = list(batcher.run(deque(orders)))
    assert batcher.calls["useful_rows"] == 8 * count
    assert batcher.calls["ticks"] == -(-8 * count // num_rows)
    for item in results:
        assert torch.equal(run(denoiser, [item.job], num_rows)[item.job.key], item.latents)


def test_the_last_edits_take_turns_where_many_are_dropped(denoiser: Denoiser) -> None:
    orders = [replace(order(seed, num_steps=12), preview_after=1) for seed in range(32)]
    batcher = SlotBatcher(
        denoise=denoiser, num_rows=4, judge=lambda some, _: [int(item.key[5:]) % 3 == 0 for item in some], judge_batch=4
    )
    assert sum(item.latents is not None for item in batcher.run(deque(orders))) == 11
    assert batcher.calls["useful_rows"] / batcher.calls["rows"] > 0.97


def test_guidance_outside_its_interval_costs_no_row(denoiser: Denoiser) -> None:
    guided = order(1, num_steps=10, scale=5.0)
    batcher = SlotBatcher(denoise=denoiser, num_rows=2)
    (within,) = batcher.run(deque([replace(guided, guided_steps=(2, 6))]))
    assert batcher.calls["useful_rows"] == 10 + 4
    (never,) = SlotBatcher(denoise=denoiser, num_rows=2).run(deque([replace(guided, guided_steps=(0, 0))]))
    plain = run(denoiser, [replace(guided, guided=guided.plain)], num_rows=2)[guided.key]
    assert torch.equal(never.latents, plain)
    assert not torch.equal(within.latents, plain)


def test_what_is_kept_is_the_source_s(denoiser: Denoiser) -> None:
    clean, noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9)).unbind()
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    wanted = replace(order(2), blend=MaskedBlend(mask=mask, clean=clean, noise=noise))
    (result,) = SlotBatcher(denoise=denoiser, num_rows=2).run(deque([wanted]))
    assert torch.equal(result.latents[..., :4], clean[..., :4])
    assert not torch.isclose(result.latents[..., 4:], clean[..., 4:]).any()


def test_the_hopeless_are_dropped_and_the_others_stay_as_they_are(denoiser: Denoiser) -> None:
    seen: list[int] = []

    def judge(orders: Sequence[DenoiseJob], states: torch.Tensor) -> list[bool]:
        assert states.shape[1:] == (NUM_KEPT, 4, 8, 8)
        seen.append(len(orders))
        return [not item.key.endswith(("1", "4")) for item in orders]

    orders = [replace(order(seed, num_steps=6), preview_after=2) for seed in range(10)]
    batcher = SlotBatcher(denoise=denoiser, num_rows=4, judge=judge, judge_batch=3)
    results = {item.job.key: item for item in batcher.run(deque(orders))}
    dropped = {key for key, item in results.items() if item.latents is None}
    assert dropped == {"ddim-1", "ddim-4"}
    assert all(results[key].num_steps == 2 for key in dropped)
    assert max(seen) == 3
    assert sum(seen) == 10
    untouched = run(denoiser, [order(seed, num_steps=6) for seed in range(10)], num_rows=4)
    assert all(torch.equal(untouched[key], results[key].latents) for key in results.keys() - dropped)
    assert batcher.calls["useful_rows"] == 8 * 6 + 2 * 2


def test_inverted_latents_lead_back_the_nearer_the_more_steps_there_are(denoiser: Denoiser) -> None:
    def lost(num_steps: int) -> float:
        there = replace(order(5), trajectory=invert_ddim(SAMPLERS["ddim"], num_steps))
        (noised,) = SlotBatcher(denoise=denoiser, num_rows=1).run(deque([there]))
        back = replace(there, latents=noised.latents, trajectory=make_trajectory(SAMPLERS["ddim"], num_steps))
        (found,) = SlotBatcher(denoise=denoiser, num_rows=1).run(deque([back]))
        return float((found.latents - there.latents).abs().mean() / there.latents.abs().mean())

    assert lost(100) < 0.5 * lost(10) < 1


@pytest.mark.gpu
def test_a_tick_waits_for_no_gpu(denoiser: Denoiser) -> None:
    def there(row: GuidanceTerm) -> GuidanceTerm:
        return GuidanceTerm(
            weight=row.weight, prompt=Prompt(embedding=row.prompt.embedding.cuda()), condition=row.condition.cuda()
        )

    orders = [
        replace(item, latents=item.latents.cuda(), guided=(*map(there, item.guided),), plain=(*map(there, item.plain),))
        for item in mixture()
    ]
    on_gpu = Denoiser()
    on_gpu.unet.cuda()
    # Once before, for what is made at a first call.
    run(on_gpu, orders[:1])
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = run(on_gpu, orders)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for key, latents in run(denoiser, list(mixture())).items():
        assert float((found[key].cpu() - latents).abs().max()) < 1e-3 * float(latents.abs().max())
