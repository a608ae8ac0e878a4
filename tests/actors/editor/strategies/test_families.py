"""The table of families, held against the call signatures of all pipelines of the installed diffusers."""

import inspect
from functools import cache

import diffusers
import pytest
from repository import ROOT

from actors.editor.strategies.families import FAMILIES, PIX2PIX, Family, family_of
from actors.editor.strategies.make import make_strategy
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig

# Pipelines whose signature has what img2img or inpainting is called with, and why no family has them.
LEFT_OUT = {
    "deprecated by diffusers": {
        "AltDiffusionImg2ImgPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline",
        "StableDiffusionInpaintPipelineLegacy",
    },
    "draw in pixels, or by a prior, without the autoencoder that sizes are counted in": {
        "IFImg2ImgPipeline", "IFInpaintingPipeline", "IFImg2ImgSuperResolutionPipeline",
        "IFInpaintingSuperResolutionPipeline", "Kandinsky3Img2ImgPipeline", "KandinskyImg2ImgCombinedPipeline",
        "KandinskyV22Img2ImgCombinedPipeline", "KandinskyV22PriorEmb2EmbPipeline",
    },
    "want a depth map, made by a model of their own": {"StableDiffusionDepth2ImgPipeline"},
    "distilled into one or two steps, not tried": {"SanaSprintImg2ImgPipeline"},
    "inpaint by an instruction": {
        "FluxKontextInpaintPipeline", "Flux2KleinInpaintPipeline", "QwenImageEditInpaintPipeline",
    },
    "fails in diffusers 0.42.1: its transformer has no guidance_embeds": {"ChromaInpaintPipeline"},
}  # fmt: skip


@cache
def signatures() -> dict[str, dict[str, inspect.Parameter]]:
    kinds = {name: getattr(diffusers, name) for name in dir(diffusers) if "Pipeline" in name}
    return {
        name: dict(inspect.signature(kind.__call__).parameters)
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)
    }


def config(method: str, **changes: object) -> EditorConfig:
    masks = ModelConfig(name="masks") if method == "inpaint" else None
    return EditorConfig(model=ModelConfig(name="x"), method=method, mask_model=masks, **changes)


def can_follow_a_caption(takes: dict[str, inspect.Parameter]) -> bool:
    passed = {"self", "prompt", "image", "mask_image", "strength", "guidance_scale", "num_inference_steps"}
    required = {
        each.name for each in takes.values() if each.default is each.empty and each.kind is not each.VAR_KEYWORD
    }
    foreign = any("control" in name or "video" in name for name in takes)
    return {"prompt", "image", "strength", "guidance_scale"} <= set(takes) and required <= passed and not foreign


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_s_classes_take_what_its_strategies_pass(family: Family) -> None:
    assert set(family.saved_as) <= set(signatures())
    assert set(family.drawn_by.values()) <= set(family.saved_as)
    for method, name in family.drawn_by.items():
        takes = set(signatures()[name])
        passed = {"prompt", "image", "guidance_scale", "generator", "num_inference_steps", "output_type"}
        if method != "instruct":
            passed |= {"strength"}
        if method == "inpaint":
            passed |= {"mask_image"}
        if name in PIX2PIX:
            passed |= {"image_guidance_scale"}
        if family.has_negative:
            passed |= {"negative_prompt"}
        if family.has_true_guidance:
            passed |= {"true_cfg_scale"}
        assert passed <= takes
        assert family.has_true_guidance == (signatures()[name]["guidance_scale"].default is None)


def test_every_pipeline_that_can_follow_a_caption_is_in_the_table_or_left_out_for_a_reason() -> None:
    drawing = {family.drawn_by[method] for family in FAMILIES for method in family.drawn_by if method != "instruct"}
    able = {name for name, takes in signatures().items() if can_follow_a_caption(takes)}
    assert able - drawing == {name for names in LEFT_OUT.values() for name in names}
    assert drawing <= able


def test_every_pipeline_of_diffusers_draws_or_is_refused_with_what_works() -> None:
    for name in signatures():
        family = next((family for family in FAMILIES if name in family.saved_as), None)
        for method in ("instruct", "img2img", "inpaint"):
            if family is not None and method in family.drawn_by:
                assert make_strategy(config(method), {"_class_name": name}).loader == family.drawn_by[method]
                continue
            with pytest.raises(ModelError) as refusal:
                make_strategy(config(method), {"_class_name": name})
            message = str(refusal.value)
            assert f"is a {name}, which " in message
            assert f"for {method} a model of " in message
            for works in family.drawn_by if family else ():
                assert f" {works}" in message.partition(", or for")[0]
    assert len(signatures()) > 200


@pytest.mark.parametrize(
    ("class_name", "method", "says"),
    [
        ("Flux2Pipeline", "img2img", "follows instructions: use method instruct, or for img2img a model of .*FLUX.1"),
        (
            "FluxPipeline",
            "instruct",
            "no instructions: use method img2img or inpaint, or for instruct .*FLUX.1 Kontext",
        ),
        ("FluxFillPipeline", "img2img", "does no img2img: use method inpaint"),
        ("QwenImageEditPipeline", "img2img", "follows instructions: use method instruct, or for img2img"),
        ("SanaPipeline", "img2img", "draws from a text alone: name for img2img a model of"),
        ("FluxControlNetImg2ImgPipeline", "img2img", "wants a control picture beside the source"),
        ("WanImageToVideoPipeline", "instruct", "makes videos"),
        ("DDPMPipeline", "img2img", "follows no text"),
        ("QwenImageLayeredPipeline", "instruct", "in a way that is not known here"),
        ("MyPipeline", "instruct", rf"which diffusers {diffusers.__version__} does not have"),
    ],
)
def test_a_refusal_says_what_the_pipeline_is_and_what_to_use(class_name: str, method: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        family_of(config(method), class_name)


def test_kolors_is_named_with_the_package_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dummy:
        _backends = ("torch", "transformers", "sentencepiece")

    monkeypatch.setattr(diffusers, "KolorsPipeline", Dummy, raising=False)
    with pytest.raises(ModelError, match="KolorsPipeline, which needs sentencepiece and is no editor here: name for"):
        family_of(config("img2img"), "KolorsPipeline")


@pytest.mark.parametrize("class_name", ["FluxPipeline", "LatentConsistencyModelPipeline"])
def test_a_negative_prompt_without_effect_is_refused(class_name: str) -> None:
    with pytest.raises(ModelError, match="takes no negative prompt: leave negative_prompt out"):
        family_of(config("img2img", negative_prompt="blurry"), class_name)


@pytest.mark.parametrize("method", ["instruct", "img2img", "inpaint"])
def test_the_readme_names_the_families_of_the_table(method: str) -> None:
    names = dict.fromkeys(family.name for family in FAMILIES if method in family.drawn_by)
    readme = (ROOT / "actors" / "README.md").read_text(encoding="utf-8")
    assert f"| editor, `{method}` | {', '.join(names)} |" in readme.splitlines()
