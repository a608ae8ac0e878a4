"""What CLIP says of classes: ensembles of templates, and the nearest other class as a hard negative."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from edited_groups import group
from pydantic import ValidationError
from tiny_models import jpeg, save_clip
from transformers import CLIPModel, CLIPProcessor

from actors.images.codec import decode_rgb
from actors.models.device import fix_threads
from actors.verifier.verifier import Verifier
from engine.runfile.verifier import VerifierConfig, signal_scores
from engine.sample import Sample

CPU = torch.device("cpu")
TEMPLATES = ("a photo of a {}", "one {}, worn", "{}")
CLASSES = ("sneaker", "bag", "coat")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_clip(tmp_path_factory.mktemp("models") / "clip"))


def judged(
    clip: str,
    samples: Sequence[Sample],
    classes: Sequence[str] = CLASSES,
    words: object = None,
    templates: Sequence[str] = TEMPLATES,
) -> dict[str, Sample]:
    signals = {"near": {"kind": "clip", "model": {"name": clip}, "templates": templates}}
    config = VerifierConfig.model_validate({"signals": signals, "batch_size": 4})
    stage = Verifier(config, CPU, name="verifier", offline=True, classes=classes, words=words or {})  # type: ignore[arg-type]
    return {item.key: item for item in stage(samples) if isinstance(item, Sample)}


def similarities(clip: str, sample: Sample, templates: Sequence[str]) -> dict[str, float]:
    """The cosine of a picture with the mean of each class's texts, by transformers alone."""
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    texts = [template.replace("{}", name) for name in CLASSES for template in templates]
    inputs = processor(
        text=texts, images=[decode_rgb(sample.image)], return_tensors="pt", padding="max_length", max_length=32
    )
    with torch.inference_mode():
        output = model(**inputs)
    mean = output.text_embeds.reshape(len(CLASSES), len(templates), -1).mean(1)
    return dict(zip(CLASSES, torch.cosine_similarity(mean, output.image_embeds).tolist(), strict=True))


@pytest.mark.parametrize("templates", [TEMPLATES[:1], TEMPLATES])
def test_a_class_is_the_mean_of_its_templates_and_is_held_against_the_nearest_other(
    clip: str, templates: Sequence[str]
) -> None:
    samples = group("a")
    found = judged(clip, samples, templates=templates)["a_cf00"].scores
    of_source, of_edit = (similarities(clip, samples[place], templates) for place in (0, 2))
    assert found["near.class"] == pytest.approx(of_edit["sneaker"] - of_source["sneaker"], abs=1e-5)
    nearest = max(of_edit["bag"], of_edit["coat"])
    assert found["near.class_margin"] == pytest.approx(of_edit["sneaker"] - nearest, abs=1e-5)


def test_scores_of_classes_do_not_depend_on_neighbours(clip: str) -> None:
    alone = judged(clip, group("a"))
    others = [replace(sample, class_name="coat") for sample in group("b", image=jpeg((1, 2, 3), seed=9))]
    among = judged(clip, [*others, *group("a"), *group("c")])
    for key, sample in alone.items():
        assert sample.scores == among[key].scores


def test_without_templates_no_class_is_asked_for(clip: str) -> None:
    config = VerifierConfig.model_validate({"signals": {"near": {"kind": "clip", "model": {"name": clip}}}})
    assert not any("class" in score for score in signal_scores(config))
    assert not any("class" in score for score in judged(clip, group("a"), templates=())["a_cf00"].scores)


@pytest.mark.parametrize(
    ("classes", "words"),
    [(("sneaker",), {}), ((), {}), (("sneaker", "bag"), {"sneaker": ["thing"], "bag": ["thing"]})],
)
def test_without_another_class_the_margin_is_undefined(clip: str, classes: Sequence[str], words: object) -> None:
    scores = judged(clip, group("a"), classes, words)["a_cf00"].scores
    assert np.isnan(scores["near.class_margin"])
    assert np.isfinite(scores["near.class"])


def test_a_class_is_called_by_the_word_that_it_is_given(clip: str) -> None:
    called = [replace(sample, class_name="n01") for sample in group("a")]
    given = judged(clip, called, ("n01", "bag", "coat"), {"n01": ["sneaker", "shoe"]})
    assert given["a_cf00"].scores == judged(clip, group("a"))["a_cf00"].scores


def test_the_verifier_s_own_check_of_the_class_takes_templates(clip: str) -> None:
    def own(**settings: object) -> float:
        config = VerifierConfig.model_validate({"model": {"name": clip}, "min_class": -1.0, **settings})
        stage = Verifier(config, CPU, name="verifier", offline=True)
        return {item.key: item for item in stage(group("a")) if isinstance(item, Sample)}["a_cf00"].scores["class"]

    ensemble = judged(clip, group("a"))["a_cf00"].scores["near.class"]
    assert own(templates=TEMPLATES) == pytest.approx(ensemble, abs=1e-6)
    assert own() != pytest.approx(ensemble, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_class": -0.1, "templates": []},
        {"min_class": -0.1, "templates": ["a photo"]},
        {"min_class": -0.1, "templates": ["{} and {}"]},
        {"templates": ["one {}"]},
    ],
)
def test_templates_that_say_nothing_of_a_class_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="templates"):
        VerifierConfig.model_validate({"model": {"name": "zoo/verifier"}, **settings})
