"""Strategies: which one draws for a method and a pipeline, and what each says of guidance and text."""

import pytest

from actors.editor.strategies.families import FAMILIES
from actors.editor.strategies.make import make_strategy
from actors.editor.strategies.strategy import SlotStrategy, Strategy
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig
from engine.sample import PLACEBO_INSTRUCTION, Edit

PLAIN = "StableDiffusionPipeline"
PIX2PIX = "StableDiffusionInstructPix2PixPipeline"
FOLLOW_INSTRUCTIONS = [family.drawn_by["instruct"] for family in FAMILIES if "instruct" in family.drawn_by]


def strategy(method: str, class_name: str = PLAIN, **changes: object) -> Strategy:
    masks = ModelConfig(name="masks") if method == "inpaint" else None
    config = EditorConfig(model=ModelConfig(name="x"), method=method, mask_model=masks, **changes)
    return make_strategy(config, {"_class_name": class_name})


def edit(severity: float) -> Edit:
    return Edit(kind="colour", before="a", after="b", instruction="make it b", caption="a b shoe", severity=severity)


@pytest.mark.parametrize("class_name", FOLLOW_INSTRUCTIONS)
def test_a_pipeline_that_follows_instructions_loads_as_itself_and_reads_the_instruction(class_name: str) -> None:
    found = strategy("instruct", class_name)
    assert found.loader == class_name
    assert found.text(edit(1.0)).text == "make it b"
    with pytest.raises(ModelError, match=rf"is a {class_name}, which follows instructions: use method instruct\b"):
        strategy("img2img", class_name)


@pytest.mark.parametrize("method", ["img2img", "inpaint"])
def test_the_other_methods_read_the_caption(method: str) -> None:
    assert strategy(method).text(edit(0.5)).text == "a b shoe"


def test_what_takes_no_negative_prompt_says_so() -> None:
    with pytest.raises(ModelError, match="takes no negative prompt"):
        strategy("instruct", "FluxKontextPipeline", negative_prompt="blurry")


@pytest.mark.parametrize(("method", "class_name"), [("instruct", PIX2PIX), ("img2img", PLAIN), ("inpaint", PLAIN)])
@pytest.mark.parametrize("scale", [1.0, 1.5, 7.5])
def test_the_weights_of_a_guided_step_add_up_to_one(method: str, class_name: str, scale: float) -> None:
    found = strategy(method, class_name, guidance_scale=scale)
    assert isinstance(found, SlotStrategy)
    most = len(found.guidance(1.0))
    assert most == (1 if scale == 1 else 3 if method == "instruct" else 2)
    for severity in (0.1, 0.5, 1.0):
        terms = found.guidance(severity)
        assert sum(term.weight for term in terms) == pytest.approx(1)
        assert len(terms) <= most


def test_without_guidance_a_milder_instruction_starts_at_the_placebo_s() -> None:
    found = strategy("instruct", PIX2PIX, guidance_scale=1.0)
    mild, whole = found.text(edit(0.25)), found.text(edit(1.0))
    assert (mild.start, mild.share) == (PLACEBO_INSTRUCTION, 0.25)
    assert whole.start is None


def test_inpainting_starts_from_noise_alone_only_at_full_strength() -> None:
    found = strategy("inpaint", strength=1.0)
    assert isinstance(found, SlotStrategy)
    assert found.starts_from_noise(1.0)
    assert not found.starts_from_noise(0.5)
