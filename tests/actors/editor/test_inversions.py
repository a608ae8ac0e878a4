"""Edit-friendly inversion in slots: the source comes back, against the paper's equations, whoever shares the batch."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion import compute_noise_ddim
from jobs import SIZE, job
from pydantic import ValidationError
from tiny_pipelines import save_flux, save_stable_diffusion, save_stable_diffusion_xl

from actors.editor.editor import Editor
from actors.editor.pipelines.jobs import EditJob
from actors.editor.pipelines.loading import load_pipeline
from actors.editor.slots.autoencoder import Autoencoder
from actors.editor.slots.batcher import SlotBatcher
from actors.editor.slots.denoise_jobs import DenoiseJobs, Start
from actors.editor.slots.drawing import SlotDrawing
from actors.editor.slots.inversions import EditFriendlyInversions
from actors.editor.slots.texts import PromptCache
from actors.editor.slots.unet import UNet
from actors.editor.strategies.latents import SourceLatents
from actors.images.frame import to_tensor
from actors.models.device import fix_threads
from actors.models.files import resolve_model
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig

CPU = torch.device("cpu")
NUM_STEPS = 10
SAVED: dict[str, Callable[[Path, str], Path]] = {"sd": save_stable_diffusion, "xl": save_stable_diffusion_xl}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd") / "model", "img2img")


def settings(folder: Path, **changes: object) -> EditorConfig:
    own: dict[str, object] = {
        "model": {"name": str(folder)}, "method": "img2img", "inversion": "edit_friendly",
        "scheduler": "DDIMScheduler", "guidance_scale": 1.0, "strength": 0.8, "num_inference_steps": NUM_STEPS,
        "batch_size": 4,
    }  # fmt: skip
    return EditorConfig.model_validate({**own, **changes})


def own_text(wanted: EditJob) -> EditJob:
    """Return the placebo: an edit whose text is the source's own."""
    return replace(wanted, edit=replace(wanted.edit, caption=wanted.sample.caption))


def jobs(*severities: float) -> list[EditJob]:
    return [job(seed, number, one, masked=False) for seed in (1, 2) for number, one in enumerate(severities)]


class Slots:
    """The parts of a drawing, with the latents that go in and come out of its batcher."""

    def __init__(self, config: EditorConfig, **scheduler: object) -> None:
        self.config = config
        self.pipeline, self.strategy = load_pipeline(config, resolve_model(config.model, offline=True), CPU)
        self.pipeline.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config, **scheduler)
        calls: Counter[str] = Counter()
        self.prompts = PromptCache(self.pipeline, size=SIZE, batch_size=2, calls=calls)
        self.vae = Autoencoder(self.pipeline, size=SIZE, batch_size=2, calls=calls, name="tiny")
        self.denoise_jobs = DenoiseJobs(self.pipeline, self.strategy, config, self.prompts, self.vae)

    def inversions(self, wanted: Sequence[EditJob], num_rows: int = 4) -> EditFriendlyInversions:
        with torch.inference_mode():
            self.prompts.add(text for each in wanted for text in self.denoise_jobs.texts(each))
            found = self.vae.encode(to_tensor([each.frame for each in wanted]))
        self.sources = {
            each.sample.source_key: SourceLatents(picture=one) for each, one in zip(wanted, found, strict=True)
        }
        return EditFriendlyInversions(wanted, self.sources, self.denoise_jobs, num_rows=num_rows)

    def starts(self, wanted: Sequence[EditJob]) -> list[tuple[EditJob, Start]]:
        inversions, found = self.inversions(wanted), []
        queue = deque(inversions.more(0))
        for result in self.batcher().run(queue):
            found += inversions.starts(result) or ()
            queue.extend(inversions.more(len(queue)))
        return found

    def latents(self, wanted: Sequence[EditJob]) -> dict[str, torch.Tensor]:
        """Return the latents of each edit by its key."""
        starts = self.starts(wanted)
        with torch.inference_mode():
            edits = [self.denoise_jobs.edit(each, self.clean(each), start) for each, start in starts]
        results = self.batcher().run(deque(edits))
        return {one.job.key: one.latents for one in results if one.latents is not None}

    def clean(self, wanted: EditJob) -> SourceLatents:
        return self.sources[wanted.sample.source_key]

    def batcher(self) -> SlotBatcher:
        return SlotBatcher(denoise=UNet(self.pipeline, self.config.model, caches_features=False), num_rows=4)


SCHEDULES: dict[str, dict[str, object]] = {
    "as it is": {},
    "no noise at the end": {"set_alpha_to_one": True},
    "trailing": {"timestep_spacing": "trailing"},
    "v-prediction": {"prediction_type": "v_prediction"},
    "no signal at the start": {
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
    },
}  # fmt: skip


@pytest.mark.parametrize("family", list(SAVED))
@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize(("strength", "dtype"), [(0.5, "float32"), (1.0, "float32"), (1.0, "bfloat16")])
def test_with_the_source_s_own_text_its_latents_come_back_to_the_bit(
    family: str, schedule: str, strength: float, dtype: str, tmp_path: Path
) -> None:
    model = {"name": str(SAVED[family](tmp_path / "model", "img2img")), "dtype": dtype}
    slots = Slots(settings(tmp_path, model=model, strength=strength), **SCHEDULES[schedule])
    wanted = [own_text(each) for each in jobs(1.0)]
    found, edited = slots.latents(wanted), slots.latents(jobs(1.0))
    for each in wanted:
        clean = slots.vae.scaled(slots.clean(each).picture.mean)
        assert torch.equal(found[each.sample.key], clean)
        assert not torch.allclose(edited[each.sample.key], clean, rtol=0.01)  # so another text is an edit


def embedded(pipeline: Pipeline, text: str) -> torch.Tensor:
    tokens = pipeline.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return pipeline.text_encoder(tokens)[0]


def by_the_paper(pipeline: Pipeline, wanted: EditJob, clean: torch.Tensor, skipped: int, scale: float) -> torch.Tensor:
    """Edit clean latents (1, channels, height, width) by Huberman-Spiegelglas et al. 2024, algorithm 1, row by row."""
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(NUM_STEPS)
    times = [int(time) for time in scheduler.timesteps]
    gap = scheduler.config.num_train_timesteps // NUM_STEPS
    alphas = {time: float(scheduler.alphas_cumprod[time]) for time in times}
    alphas[times[-1] - gap] = float(scheduler.final_alpha_cumprod)
    chance = torch.Generator().manual_seed(wanted.seed)
    noised = {
        time: alphas[time] ** 0.5 * clean + (1 - alphas[time]) ** 0.5 * torch.randn(clean.shape, generator=chance)
        for time in times
    } | {times[-1] - gap: clean}

    def mean(latents: torch.Tensor, noise: torch.Tensor, time: int) -> tuple[torch.Tensor, float]:
        now, after = alphas[time], alphas[time - gap]
        variance = (1 - after) / (1 - now) * (1 - now / after)
        data = (latents - (1 - now) ** 0.5 * noise) / now**0.5
        return after**0.5 * data + (1 - after - variance) ** 0.5 * noise, variance**0.5

    def predicted(latents: torch.Tensor, time: int, text: str) -> torch.Tensor:
        return pipeline.unet(latents, time, encoder_hidden_states=embedded(pipeline, text)).sample

    given = {}
    for time in times:
        noise = predicted(noised[time], time, wanted.sample.caption)
        mu, sigma = mean(noised[time], noise, time)
        given[time] = (noised[time - gap] - mu) / sigma
        theirs, _ = compute_noise_ddim(scheduler, noised[time - gap], noised[time], time, noise, eta=1.0)
        assert torch.allclose(given[time], theirs, rtol=1e-3, atol=1e-3)
    latents = noised[times[skipped]]
    for time in times[skipped:]:
        noise = predicted(latents, time, wanted.edit.caption)
        if scale > 1:
            without = predicted(latents, time, "")
            noise = without + scale * (noise - without)
        mu, sigma = mean(latents, noise, time)
        latents = mu + sigma * given[time]
    return latents


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize(("severity", "skipped"), [(1.0, 2), (0.5, 6)])
def test_an_edit_is_that_of_the_paper_s_equations(model: Path, scale: float, severity: float, skipped: int) -> None:
    slots = Slots(settings(model, guidance_scale=scale))
    wanted = jobs(severity)
    found = slots.latents(wanted)
    for each in wanted:
        clean = slots.vae.scaled(slots.clean(each).picture.mean)[None]
        with torch.inference_mode():
            theirs = by_the_paper(slots.pipeline, each, clean, skipped, scale)[0]
        ours = found[each.sample.key]
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4
        assert not torch.allclose(ours, clean[0], rtol=0.01)


def draw(config: EditorConfig, wanted: Sequence[EditJob]) -> tuple[dict[str, torch.Tensor], SlotDrawing]:
    pipeline, strategy = load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    drawing = SlotDrawing(pipeline, strategy, config, SIZE)
    return {each.sample.key: one for each, one in drawing.edits(wanted) if one is not None}, drawing


def test_a_picture_is_bit_identical_alone_in_a_full_batch_and_in_another_order(model: Path) -> None:
    config = settings(model, guidance_scale=3.0)
    wanted = jobs(1.0, 0.5, 0.75, 1.0)
    together, drawing = draw(config, wanted)
    backwards = {each.sample.key: one for each, one in drawing.edits(wanted[::-1])}
    assert len(together) == len(wanted)
    for each in wanted:
        ((_, alone),) = drawing.edits([each])
        assert alone is not None
        assert torch.equal(alone, together[each.sample.key])
        assert torch.equal(alone, backwards[each.sample.key])
    assert len({float(one.sum()) for one in together.values()}) == len(wanted)  # so equality says something


def test_a_source_is_inverted_once_for_all_edits_and_severities(model: Path) -> None:
    wanted = jobs(1.0, 0.5, 1.0)
    found, drawing = draw(settings(model, guidance_scale=3.0), wanted)
    assert len(found) == 6
    assert drawing.calls["inversions"] == 2
    # Of 10 steps strength .8 makes 8, at severity .5 4; guidance takes two rows, the inversion one.
    assert drawing.calls["useful_rows"] == 2 * 8 + 2 * (8 + 4 + 8) * 2
    assert drawing.calls["encoded"] == 2


def test_a_milder_edit_starts_later_with_the_same_noise_and_stays_nearer(model: Path) -> None:
    wanted = jobs(1.0, 0.5, 0.25)[:3]
    slots = Slots(settings(model))
    starts = {each.edit.severity: start for each, start in slots.starts(wanted)}
    assert [len(starts[severity].noises) for severity in (1.0, 0.5, 0.25)] == [8, 4, 2]
    assert torch.equal(starts[0.25].noises, starts[1.0].noises[-2:])
    ((_, alone),) = slots.starts(wanted[2:])
    assert torch.equal(alone.latents, starts[0.25].latents)
    assert torch.equal(alone.noises, starts[0.25].noises)
    found, clean = slots.latents(wanted), slots.vae.scaled(slots.clean(wanted[0]).picture.mean)
    full, milder, mildest = (float((found[each.sample.key] - clean).abs().mean()) for each in wanted)
    assert mildest < milder < full


def test_noise_is_drawn_by_the_seed_and_the_source_comes_back_from_any(model: Path) -> None:
    (wanted,) = jobs(1.0)[:1]
    slots = Slots(settings(model))
    key = wanted.sample.key
    (one,), (same,), (other,) = (slots.latents([replace(wanted, seed=seed)]).values() for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, rtol=0.01)
    back = slots.latents([replace(own_text(wanted), seed=2)])[key]
    assert torch.equal(back, slots.vae.scaled(slots.clean(wanted).picture.mean))


def test_the_picture_of_the_own_text_is_the_source_through_the_autoencoder(model: Path) -> None:
    wanted = [own_text(each) for each in jobs(1.0)]
    found, drawing = draw(settings(model), wanted)
    sources = drawing.reconstructions(wanted)
    for each in wanted:
        assert float((found[each.sample.key] - sources[each.sample.source_key]).abs().max()) < 1e-5


def test_sources_are_begun_only_where_few_jobs_wait_and_their_noise_is_in_the_cpu_s_memory(model: Path) -> None:
    slots = Slots(settings(model))
    wanted = [job(seed, 0, 1.0, masked=False) for seed in range(1, 9)]
    inversions = slots.inversions(wanted, num_rows=4)
    assert inversions.more(8) == []
    begun = inversions.more(0)
    assert {one.key.split("/")[0] for one in begun} == {"s1"}  # 8 steps fill two calls of 4 rows
    assert {one.key.split("/")[0] for one in inversions.more(7)} == {"s2"}
    ends = [inversions.starts(result) for result in slots.batcher().run(deque(begun))]
    assert [len(found) for found in ends if found is not None] == [0] * 7 + [1]
    ((_, start),) = ends[-1] or ()
    assert start.noises is not None
    assert (start.noises.shape, start.noises.device) == (torch.Size([8, 4, 16, 16]), CPU)


def test_what_cannot_be_inverted_is_refused_in_words(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="edit_friendly is for method img2img, not instruct: leave it out"):
        settings(model, method="instruct")
    with pytest.raises(ValidationError, match="edit_friendly is for method img2img, not inpaint"):
        settings(model, method="inpaint", mask_model=ModelConfig(name="unused"))
    with pytest.raises(ValidationError, match="leave deep_cache_interval out"):
        settings(model, deep_cache_interval=2)
    with pytest.raises(ValidationError, match="'ddim' or 'edit_friendly'"):
        settings(model, inversion="null_text")

    def editor(**changes: object) -> Editor:
        return Editor(settings(model, **changes), CPU, name="editor", seed=0, offline=True)

    with pytest.raises(ModelError, match=r"inversion works .*the scheduler is UniPCM.*: set scheduler to DDIMSch"):
        editor(scheduler="UniPCMultistepScheduler")
    flux = ModelConfig(name=str(save_flux(tmp_path / "flux")))
    with pytest.raises(ModelError, match="FluxImg2ImgPipeline is no UNet pipeline of Stable Diffusion 1, 2 or XL"):
        editor(model=flux, scheduler=None, size=48)


def test_ddim_and_true_are_one_setting_and_old_run_files_keep_their_digest(model: Path) -> None:
    old, named, none = (settings(model, inversion=value) for value in (True, "ddim", False))
    assert old == named
    assert old.model_dump(mode="json")["inversion"] is True
    assert old.changes()["inversion"] is True
    assert "inversion" not in none.changes()
    assert settings(model).changes()["inversion"] == "edit_friendly"
