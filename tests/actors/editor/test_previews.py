"""Previews: a leap ends where the edit ends, scores depend on no neighbour, what is dropped leaves without image."""

from collections import deque
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from denoise_jobs import SAMPLERS
from edits import EDIT, group
from repository import DEMO
from tiny_models import save_clip
from tiny_pipelines import save_flux_kontext, save_stable_diffusion, save_stable_diffusion_xl, tiny_unet

from actors.editor.editor import Editor
from actors.editor.samplers.trajectory import make_trajectory
from actors.editor.slots.batcher import SlotBatcher
from actors.editor.slots.previews import leap_of, leap_places
from actors.editor.slots.steps import DATA, DenoiseJob, GuidanceTerm, MaskedBlend
from actors.editor.slots.unet import Prompt
from actors.models.device import fix_threads
from actors.models.low_rank import ScaledAdapter
from engine.errors import ModelError
from engine.runfile.editor import EarlyRejection, EditorConfig, PreviewCheck, PreviewingEditorConfig
from engine.runfile.fields import ModelConfig
from engine.runfile.load import load_run_file
from engine.sample import Rejection, Sample
from engine.selection.early import as_pilot
from engine.verdicts.early_cut import PREVIEW
from engine.verdicts.rule import EARLY

CPU = torch.device("cpu")
DDIM = SAMPLERS["ddim"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_stable_diffusion(folder / "instruct", "instruct")
    save_clip(folder / "clip")
    return folder


def unet(latents: torch.Tensor, times: torch.Tensor, prompts: list[Prompt]) -> torch.Tensor:
    return _UNET(latents, times, encoder_hidden_states=torch.stack([prompt.embedding for prompt in prompts])).sample


torch.manual_seed(0)
_UNET = tiny_unet(4)


def order(sampler: str, num_steps: int, after: int, **changes: object) -> DenoiseJob:
    generator = torch.Generator().manual_seed(4)
    trajectory = make_trajectory(SAMPLERS[sampler], num_steps)
    return DenoiseJob(
        key="a",
        latents=trajectory.start[1] * torch.randn(4, 8, 8, generator=generator),
        trajectory=trajectory,
        guided=(
            GuidanceTerm(weight=-1.0, prompt=Prompt(embedding=torch.zeros(5, 32))),
            GuidanceTerm(weight=2.0, prompt=Prompt(embedding=torch.randn(5, 32, generator=generator))),
        ),
        generator=generator,
        preview_after=after,
        **changes,
    )


def state_of(wanted: DenoiseJob) -> torch.Tensor:
    """The state of an order where it is judged."""
    states: list[torch.Tensor] = []

    def judge(_: object, found: torch.Tensor) -> list[bool]:
        states.extend(found)
        return [False] * len(found)

    list(SlotBatcher(denoise=unet, num_rows=2, judge=judge).run(deque([wanted])))
    return states[0]


def drawn(wanted: DenoiseJob) -> torch.Tensor:
    (result,) = SlotBatcher(denoise=unet, num_rows=2).run(deque([wanted]))
    assert result.latents is not None
    return result.latents


def test_a_leap_asks_the_unet_evenly_on_the_way() -> None:
    assert leap_places(1, 29, 3) == [8, 15, 22]
    assert leap_places(2, 20, 1) == [11]
    assert leap_places(1, 3, 4) == [1, 2]
    assert leap_places(1, 2, 2) == [1]


def test_a_leap_through_every_step_of_dpm_solver_is_the_edit() -> None:
    wanted = order("dpm", 10, 3)
    assert leap_places(3, 10, 100) == [3, 4, 5, 6, 7, 8, 9]
    end = drawn(replace(wanted, preview_after=None))
    leap = drawn(leap_of(wanted, state_of(wanted), 100))
    assert torch.allclose(leap, end, atol=1e-4)
    shorter = drawn(leap_of(wanted, state_of(wanted), 1))
    assert not torch.allclose(shorter, end, atol=0.05)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_leap_is_nearer_to_the_end_than_what_the_last_step_predicts(sampler: str) -> None:
    # Ancestral steps draw fresh noise, so where such an edit ends is not known; what it is heading for is.
    wanted = order(sampler, 24, 3)
    state = state_of(wanted)
    truth = drawn(replace(order("ddim" if sampler == "ancestral" else sampler, 24, 3), preview_after=None))
    leap = drawn(leap_of(wanted, state, 3))
    assert leap.isfinite().all()
    if sampler != "ancestral":
        assert (leap - truth).norm() < 0.8 * (state[DATA] - truth).norm()


def test_a_leap_keeps_what_inpainting_keeps() -> None:
    clean, noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9)).unbind()
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    wanted = order("unipc", 8, 2, blend=MaskedBlend(mask=mask, clean=clean, noise=noise))
    leap = leap_of(wanted, state_of(wanted), 2)
    alpha, sigma = wanted.trajectory.levels[leap_places(2, 8, 2)[0]].tolist()
    assert torch.allclose(leap.latents[..., :4], (alpha * clean + sigma * noise)[..., :4], atol=1e-6)
    assert torch.equal(drawn(leap)[..., :4], clean[..., :4])


def test_a_leap_has_the_lora_of_its_edit_in_all_of_its_steps() -> None:
    snow = ScaledAdapter(name="snow", scale=0.5)
    wanted = order("unipc", 8, 2, adapter=snow, adapter_steps=(4, 8))
    (term, *_) = wanted.guided
    assert [wanted.prompt(term, step).adapter for step in range(8)] == [None] * 4 + [snow] * 4
    leap = leap_of(wanted, state_of(wanted), 2)
    assert [leap.prompt(term, step).adapter for step in range(leap.trajectory.num_steps)] == [snow] * 2


def previewing(models: Path, early: dict[str, object] | None = None, **changes: object) -> Editor:
    config = PreviewingEditorConfig(
        model=ModelConfig(name=str(models / "instruct")),
        clip=ModelConfig(name=str(models / "clip")),
        **{
            "batch_size": 4,
            "num_inference_steps": 6,
            "guidance_scale": 3.0,
            "early_rejection": EarlyRejection(after=0.34, **(early or {})),
            **changes,
        },
    )
    return Editor(config, CPU, name="editor", seed=11, offline=True)


def plain(models: Path, **changes: object) -> Editor:
    settings = {"batch_size": 4, "num_inference_steps": 6, "guidance_scale": 3.0, **changes}
    config = EditorConfig(model=ModelConfig(name=str(models / "instruct")), **settings)
    return Editor(config, CPU, name="editor", seed=11, offline=True)


def by_key(items: list[Sample | Rejection]) -> dict[str, Sample]:
    return {item.key: item for item in items if isinstance(item, Sample)}


def cut_between(samples: dict[str, Sample], share: float) -> dict[str, object]:
    """The settings that drop a share of these edits, by their image scores alone."""
    scores = sorted(one.scores["preview_image"] for one in samples.values() if "preview_image" in one.scores)
    least = scores[round(share * len(scores))]
    return {"checks": {"image": PreviewCheck(floor=0.0, spread=1.0)}, "least": least, "cut": "abc"}


BATCH = [sample for key in "abc" for sample in group(key, num_edits=3)]


def test_a_pilot_scores_every_edit_s_preview_and_draws_what_is_drawn_without(models: Path) -> None:
    stage, without = previewing(models), by_key(list(plain(models)(BATCH)))
    found = by_key(list(stage(BATCH)))
    assert {key: item.image for key, item in found.items()} == {key: item.image for key, item in without.items()}
    for item in found.values():
        names = {name.removeprefix(PREVIEW) for name in item.scores if name.startswith(PREVIEW)}
        whole = {"image", "text_source", "text_edit", "directional", "consistency", "contrast"}
        assert names == (whole if item.role == "counterfactual" else set())
    assert stage.calls["previews"] == 9
    record = found["a_cf00"].provenance["editor"]
    assert record["previews"]["cut"] is None
    assert record["previews"]["ahead"] == 3
    assert "previews" not in without["a_cf00"].provenance["editor"]


def test_an_edit_below_the_cut_leaves_with_that_verdict_and_no_image(models: Path) -> None:
    pilot = by_key(list(previewing(models)(BATCH)))
    stage = previewing(models, **cut_between(pilot, 0.5))
    found = by_key(list(stage(BATCH)))
    dropped = {key for key, item in found.items() if item.verdict is not None}
    assert 2 < len(dropped) < 9
    assert {found[key].verdict.reasons for key in dropped} == {(EARLY,)}
    assert all(not found[key].image and found[key].role == "counterfactual" for key in dropped)
    assert {key: item.image for key, item in found.items() if key not in dropped} == {
        key: item.image for key, item in pilot.items() if key not in dropped
    }
    assert all(found[key].scores == pilot[key].scores for key in found)
    assert found["a_cf00"].provenance["editor"]["previews"]["cut"] == "abc"


def test_fewer_rows_of_the_unet_are_run_where_edits_are_dropped(models: Path) -> None:
    batch = [sample for key in "abcdefgh" for sample in group(key, num_edits=4) if sample.role != "placebo"]
    without, pilot = plain(models), previewing(models)
    list(without(batch))
    settings = cut_between(by_key(list(pilot(batch))), 0.75)
    stage = previewing(models, {"ahead": 1}, **settings)
    found = by_key(list(stage(batch)))
    kept = sum(bool(item.image) for item in found.values() if item.role == "counterfactual")
    # 6 steps of 3 rows, of which 2 come before the preview; it takes 1 more.
    assert stage.calls["useful_rows"] == 3 * (6 * kept + 2 * (32 - kept) + 32)
    assert without.calls["useful_rows"] == 3 * 6 * 32
    assert stage.calls["useful_rows"] < 0.8 * without.calls["useful_rows"]
    assert stage.calls["rows"] < 0.9 * without.calls["rows"]


def test_a_preview_has_the_same_scores_whatever_its_neighbours(models: Path) -> None:
    stage = previewing(models)
    together = by_key(list(stage(BATCH)))
    for key in "abc":
        (alone,) = [item for item in stage(group(key, num_edits=1)) if item.key == f"{key}_cf00"]
        assert isinstance(alone, Sample)
        assert alone == together[alone.key]
    assert len({item.scores.get("preview_image") for item in together.values()}) > 5


def test_without_a_leap_it_is_what_the_last_step_predicts(models: Path) -> None:
    found = by_key(list(previewing(models, {"ahead": 0})(BATCH)))
    other = by_key(list(previewing(models, {"ahead": 3})(BATCH)))
    assert found["a_cf00"].image == other["a_cf00"].image
    assert found["a_cf00"].scores["preview_image"] != other["a_cf00"].scores["preview_image"]


def test_a_tiny_decoder_makes_the_previews_and_not_the_pictures(models: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip
    tiny.save_pretrained(tmp_path / "tiny")
    stage = previewing(models, {"decoder": ModelConfig(name=str(tmp_path / "tiny"))})
    found, own = by_key(list(stage(BATCH))), by_key(list(previewing(models)(BATCH)))
    assert found["a_cf00"].image == own["a_cf00"].image
    assert found["a_cf00"].scores["preview_image"] != own["a_cf00"].scores["preview_image"]
    assert stage.calls["decoded"] == 12  # the previews are none of the autoencoder's
    assert found["a_cf00"].provenance["editor"]["previews"]["decoder"]["name"] == "tiny"


def test_a_decoder_that_is_none_is_refused(models: Path) -> None:
    with pytest.raises(ModelError, match="AutoencoderTiny"):
        previewing(models, {"decoder": ModelConfig(name=str(models / "clip"))})


def test_an_edit_whose_text_does_not_change_is_not_asked_for_direction(models: Path) -> None:
    source, _, edit = group("a")
    same = replace(edit, edit=replace(EDIT, caption=source.caption))
    (found,) = [item for item in previewing(models)([source, same]) if item.key == edit.key]
    assert isinstance(found, Sample)
    assert not {"preview_directional", "preview_consistency"} & set(found.scores)


@pytest.mark.parametrize("method", ["img2img", "edit_friendly", "inpaint", "xl"])
def test_other_methods_are_previewed_too(method: str, models: Path, tmp_path: Path) -> None:
    from jobs import job

    from actors.editor.pipelines.loading import load_pipeline
    from actors.editor.slots.drawing import SlotDrawing
    from actors.editor.slots.previews import PreviewModels
    from actors.models.files import resolve_model

    folder = (
        save_stable_diffusion_xl(tmp_path / "xl", "instruct")
        if method == "xl"
        else save_stable_diffusion(tmp_path / "sd", "img2img")
    )
    inpaints = method == "inpaint"
    config = PreviewingEditorConfig(
        model=ModelConfig(name=str(folder)),
        clip=ModelConfig(name=str(models / "clip")),
        method={"xl": "instruct", "edit_friendly": "img2img"}.get(method, method),
        inversion="edit_friendly" if method == "edit_friendly" else False,
        mask_model=ModelConfig(name="unused") if inpaints else None,
        batch_size=2,
        num_inference_steps=10,
        early_rejection=EarlyRejection(after=0.3),
        checks={"image": PreviewCheck(floor=2.0, spread=1.0)},
        least=0.0,
    )
    pipeline, strategy = load_pipeline(config, resolve_model(config.model, offline=True), CPU)
    drawing = SlotDrawing(pipeline, strategy, config, 32, None, PreviewModels(config, CPU, offline=True))
    jobs = [job(seed, 0, 1.0, masked=inpaints) for seed in (1, 2, 3)]
    results = list(drawing.edits(jobs))
    # No cosine reaches 2, so all are dropped, each with its preview's scores.
    assert [pixels for _, pixels in results] == [None] * 3
    assert all(-1 <= done.sample.scores["preview_image"] <= 1 for done, _ in results)


def test_a_sampler_without_predictions_of_the_end_cannot_reject_early(tmp_path: Path) -> None:
    model = ModelConfig(name=str(save_stable_diffusion(tmp_path / "model", "img2img", plms=True)))
    config = EditorConfig(model=model, method="img2img", early_rejection=EarlyRejection())
    with pytest.raises(ModelError, match=r"PNDMScheduler keeps no prediction .*stages\.editor\.scheduler"):
        Editor(config, CPU, name="editor", seed=0, offline=True)


def test_a_pipeline_without_slots_cannot_reject_early(tmp_path: Path) -> None:
    config = EditorConfig(
        model=ModelConfig(name=str(save_flux_kontext(tmp_path))), size=32, early_rejection=EarlyRejection()
    )
    with pytest.raises(ModelError, match=r"stages\.editor\.early_rejection: .* cannot be stopped early"):
        Editor(config, CPU, name="editor", seed=0, offline=True)


def test_the_zoo_s_previews_foretell_its_pictures_the_better_for_a_leap() -> None:
    from actors.build import build_stage
    from actors.zoo.exam.editor import edit_of, targets
    from actors.zoo.exam.scenes import captioned, source
    from engine.wardrobe.garments import load_garments
    from engine.wardrobe.scene import make_scenes

    scenes = list(make_scenes(load_garments("heldout"), "previews", 6))
    sources = captioned([source(scene) for scene in scenes], scenes)
    edits = [
        replace(
            one, key=f"{one.key}_cf{place}", role="counterfactual", image=b"",
            edit=edit_of("background", scene, goal, severity),
        )
        for place, severity in enumerate((0.2, 1.0))
        for one, scene, goal in zip(sources, scenes, targets(scenes, "background"), strict=True)
    ]  # fmt: skip

    def off(ahead: int) -> float:
        run = as_pilot(load_run_file(DEMO, [f"stages.editor.early_rejection={{ahead: {ahead}}}"]))
        editor, verifier = (
            build_stage(run.stages[name], name=name, seed=0, offline=True) for name in ("editor", "verifier")
        )
        judged = by_key(list(verifier(list(editor([*sources, *edits])))))
        scores = [item.scores for item in judged.values() if item.edit]
        assert max(one["directional"] for one in scores) - min(one["directional"] for one in scores) > 0.5
        return max(abs(one["directional"] - one["preview_directional"]) for one in scores)

    assert off(3) < min(0.2, 0.8 * off(0))
