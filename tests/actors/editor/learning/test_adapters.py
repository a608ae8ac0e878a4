"""Edits with LoRAs, in slots and in batches: whose picture changes, how much, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edits import EDIT, editor, group, pixels
from loras import factors_of, save_lora
from tiny_pipelines import save_stable_diffusion

from actors.editor.learning.learned_file import FILE
from actors.editor.learning.lora_file import LearnedLora, read_lora
from engine.errors import ModelError
from engine.runfile.editor import AdapterConfig, EditorConfig
from engine.runfile.fields import ModelConfig
from engine.sample import Rejection, Sample

BATCHES = {"method": "img2img", "scheduler": "HeunDiscreteScheduler"}


@pytest.fixture(scope="module")
def img2img(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "img2img", "img2img")


def edited(*after: str, key: str = "a", severity: float = 1.0) -> list[Sample]:
    """Return a source, its placebo, and an edit to each value; keys are KEY_VALUE."""
    source, placebo, first = group(key, num_edits=1)
    text = {value: f"put it on {value}" for value in after}
    return [
        source,
        placebo,
        *(
            replace(
                first,
                key=f"{key}_{value}",
                edit=replace(
                    EDIT, instruction=text[value], caption=f"a boot, {text[value]}", after=value, severity=severity
                ),
            )
            for value in after
        ),
    ]


def images(folder: Path, samples: list[Sample], **settings: object) -> dict[str, bytes]:
    return {item.key: item.image for item in editor(folder, **settings)(samples) if isinstance(item, Sample)}


@pytest.mark.parametrize("way", ["slots", "batches"])
def test_edits_to_its_value_are_drawn_with_a_lora_and_nothing_else_is(
    way: str, instruct: Path, img2img: Path, tmp_path: Path
) -> None:
    model, settings = (instruct, {}) if way == "slots" else (img2img, BATCHES)
    lora = save_lora(tmp_path / "lora", model, "sand")
    samples = edited("sand", "snow")
    plain, adapted = (images(model, samples, adapters=adapters, **settings) for adapters in ((), (lora,)))
    assert {key for key, image in plain.items() if adapted[key] != image} == {"a_sand"}


@pytest.mark.parametrize("way", ["slots", "batches", "cached", "inverted", "friendly", "bfloat16"])
def test_an_edit_has_the_same_bytes_whatever_is_drawn_beside_it(
    way: str, instruct: Path, img2img: Path, tmp_path: Path
) -> None:
    model, settings = {
        "slots": (instruct, {"unet_rows": 7}),
        "batches": (img2img, BATCHES),
        "cached": (instruct, {"deep_cache_interval": 2, "num_inference_steps": 5}),
        "inverted": (img2img, {"method": "img2img", "inversion": True, "num_inference_steps": 4}),
        "friendly": (img2img, {"method": "img2img", "inversion": "edit_friendly", "num_inference_steps": 4}),
        "bfloat16": (instruct, {"model": ModelConfig(name=str(instruct), dtype="bfloat16")}),
    }[way]
    adapters = (
        save_lora(tmp_path / "one", model, "sand"),
        save_lora(tmp_path / "two", model, "snow", seed=1),
    )
    shard = [
        *edited("sand", "snow", "mud", key="a"),
        *(replace(each, key=f"{each.key}_mild") for each in edited("sand", "snow", key="a", severity=0.5)[2:]),
        *edited("snow", key="bb"),
    ]
    together = images(model, shard, adapters=adapters, **settings)
    assert len({image for key, image in together.items() if key not in ("a", "bb")}) == len(together) - 2
    for sample in shard:
        if sample.role == "counterfactual":
            source = next(each for each in shard if each.key == sample.source_key)
            alone = images(model, [source, sample], adapters=adapters, **settings)
            assert alone[sample.key] == together[sample.key], sample.key


def test_the_milder_an_edit_the_nearer_it_is_to_one_without_the_lora(instruct: Path, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "lora", instruct, "sand")
    # Without guidance severity alone would change nothing, but for the start.
    settings = {"guidance_scale": 3.0, "num_inference_steps": 4, "lossless": True}
    distances = []
    for severity in (0.001, 0.25, 0.5, 1.0):
        plain, adapted = (
            pixels(list(editor(instruct, adapters=adapters, **settings)(edited("sand", severity=severity)))[-1])
            for adapters in ((), (lora,))
        )
        distances.append(float(np.abs(plain.astype(float) - adapted).mean()))
    assert distances[0] < 0.5
    assert distances == sorted(set(distances))
    assert distances[-1] > 4 * distances[1] / 2


def test_the_scale_of_a_run_file_multiplies_severity(instruct: Path, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "lora", instruct, "sand")
    stage = editor(instruct, adapters=(lora.model_copy(update={"scale": 2.5}),))
    (edit,) = (each.edit for each in edited("sand", severity=0.5)[2:])
    assert edit is not None
    found = stage.adapters.scaled(edit)
    assert found is not None
    assert found.scale == 1.25
    assert stage.adapters.scaled(replace(edit, after="snow")) is None
    assert stage.adapters.scaled(replace(edit, before="sand")) is None


def test_a_lora_acts_in_its_share_of_the_steps_alone(instruct: Path, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "lora", instruct, "sand")
    made = {
        steps: images(
            instruct, edited("sand"), adapters=(lora.model_copy(update={"steps": steps}),), num_inference_steps=8
        )["a_sand"]
        for steps in ((0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.0, 0.01))
    }
    made[(0.0, 0.0)] = images(instruct, edited("sand"), num_inference_steps=8)["a_sand"]
    # A hundredth of eight steps is none.
    assert made[(0.0, 0.01)] == made[(0.0, 0.0)]
    assert len(set(made.values())) == 4


def test_steps_are_refused_where_pictures_are_drawn_in_batches(img2img: Path, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "lora", img2img, "sand").model_copy(update={"steps": (0.25, 1.0)})
    with pytest.raises(ModelError, match=r"adapters.steps: only for pipelines that are drawn in slots"):
        editor(img2img, adapters=(lora,), **BATCHES)


def test_a_word_that_stood_for_the_value_in_learning_stands_for_it_in_drawing(instruct: Path, tmp_path: Path) -> None:
    one = save_lora(tmp_path / "one", instruct, "sand")
    two = save_lora(tmp_path / "two", instruct, "sand", word="mud")
    samples = edited("sand", "mud")
    own, other = (images(instruct, samples, adapters=(lora,)) for lora in (one, two))
    assert own["a_sand"] != other["a_sand"]
    assert own["a_mud"] == other["a_mud"]
    nameless = replace(samples[2], edit=replace(EDIT, instruction="on the beach", after="sand"))
    found = list(editor(instruct, adapters=(two,))([samples[0], nameless]))[-1]
    assert isinstance(found, Rejection)
    assert found.reason == "no_learned_word"


def test_the_provenance_has_the_digest_of_a_lora(instruct: Path, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "lora", instruct, "sand")
    made = list(editor(instruct, adapters=(lora,))(edited("sand")))[-1]
    assert isinstance(made, Sample)
    assert made.provenance["editor"]["model"]["adapters"] == {"sand": read_lora(tmp_path / "lora").digest}


def test_a_lora_of_another_model_or_of_other_layers_is_refused(instruct: Path, img2img: Path, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "lora", img2img, "sand")
    with pytest.raises(ModelError, match=r"lora is a LoRA of the model 'tiny' .* known to its own model alone"):
        editor(instruct, adapters=(lora,))
    found = read_lora(tmp_path / "lora").learned
    layer, (down, up) = next(iter(factors_of(img2img).items()))
    for factors, text in (({layer: (down[:, :8], up)}, "a matrix of"), ({"mid.to_q": (down, up)}, "no such layer")):
        (tmp_path / "lora" / FILE).write_bytes(LearnedLora(**{**vars(found), "factors": factors}).to_bytes())
        with pytest.raises(ModelError, match=f"its factors of .*{text}.*learn it from a run of this editor"):
            editor(img2img, method="img2img", adapters=(lora.model_copy(update={"digest": None}),))


@pytest.mark.parametrize(
    ("entry", "more", "text"),
    [
        ({"steps": (0.5, 0.5), "kind": "lora"}, {}, r"steps must be \[from, to\]"),
        ({"scale": 2.0}, {}, "scale and steps are for kind lora"),
        ({"scale": 0.0, "kind": "lora"}, {}, "greater than 0"),
        ({"kind": "lora"}, {"compile": "default"}, "set compile: off"),
    ],
)
def test_a_run_file_that_asks_for_what_cannot_be_is_refused(
    entry: dict[str, object], more: dict[str, object], text: str
) -> None:
    content = {"value": "sand", "path": "/lora", **entry}
    with pytest.raises(ValueError, match=text):
        EditorConfig.model_validate({"model": ModelConfig(name="zoo/editor"), "adapters": [content], **more})
    assert AdapterConfig(value="sand", path="/lora").kind == "token"
