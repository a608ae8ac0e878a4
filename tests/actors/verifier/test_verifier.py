import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from edited_groups import group
from PIL import Image
from repository import DEMO, ONE_CLIP
from tiny_models import save_clip, save_language_model

from actors.models.device import fix_threads
from actors.verifier.signals.clip_similarity import directional
from actors.verifier.signals.contrast import contrast
from actors.verifier.verifier import Verifier
from actors.zoo.exam.editor import batch_of, targets
from actors.zoo.exam.scenes import Exam, picture
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig, Placement
from engine.runfile.load import load_run_file
from engine.runfile.verifier import VerifierConfig
from engine.sample import Rejection, Sample
from engine.verdicts.rule import verdict_reasons

CPU = torch.device("cpu")
EDIT_SCORES = {"image", "text_source", "text_edit", "directional", "consistency", "contrast"}
GOOD = {"image": 0.9, "text_source": 0.3, "text_edit": 0.3, "directional": 0.5, "consistency": 0.1, "contrast": 0.2}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


def verifier(folder: Path, words: Mapping[str, Sequence[str]] = MappingProxyType({}), **changes: object) -> Verifier:
    settings = {"model": ModelConfig(name=str(folder)), "batch_size": 4, **changes}
    return Verifier(VerifierConfig(**settings), CPU, name="verifier", offline=True, words=words)


def black() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_each_role_has_its_own_constant_scores(folder: Path) -> None:
    source, placebo, edit = verifier(folder)(group("a"))
    assert isinstance(source, Sample)
    assert isinstance(placebo, Sample)
    assert isinstance(edit, Sample)
    assert set(source.scores) == {"text_source", "contrast"}
    assert source.verdict is None
    assert set(placebo.scores) == set(edit.scores) == EDIT_SCORES
    assert math.isnan(placebo.scores["directional"])
    assert math.isnan(placebo.scores["consistency"])
    assert all(math.isfinite(score) for score in edit.scores.values())
    assert edit.verdict is not None
    assert edit.provenance["verifier"]["model"]["digest"]


def test_scores_are_those_of_the_model(folder: Path) -> None:
    from transformers import AutoProcessor, CLIPModel

    stage = verifier(folder)
    samples = group("a")
    edit = list(stage(samples))[2]
    model, processor = CLIPModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    images = [Image.open(io.BytesIO(samples[index].image)) for index in (0, 2)]
    texts = ["a red sneaker on grass", "a red sneaker on sand", "grass", "sand"]
    with torch.inference_mode():
        output = model(**processor(text=texts, images=images, padding=True, return_tensors="pt"))
    pictures, words = output.image_embeds, output.text_embeds
    assert edit.scores["image"] == pytest.approx(float(pictures[0] @ pictures[1]), abs=1e-5)
    assert edit.scores["text_source"] == pytest.approx(float(pictures[0] @ words[0]), abs=1e-5)
    assert edit.scores["text_edit"] == pytest.approx(float(pictures[1] @ words[1]), abs=1e-5)
    direction = torch.cosine_similarity(pictures[1] - pictures[0], words[1] - words[0], dim=0)
    assert edit.scores["directional"] == pytest.approx(float(direction), abs=1e-4)
    assert edit.scores["consistency"] == pytest.approx(float(pictures[1] @ (words[3] - words[2])), abs=1e-5)


def test_the_class_is_asked_for_by_its_word(folder: Path) -> None:
    from transformers import AutoProcessor, CLIPModel

    words = {"n04254777": ("trainer", "sneaker")}
    samples = [replace(sample, class_name="n04254777") for sample in group("a")]
    _, placebo, edit = verifier(folder, words, min_class=-1.0)(samples)
    assert set(edit.scores) == set(placebo.scores) == EDIT_SCORES | {"class"}
    model, processor = CLIPModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    images = [Image.open(io.BytesIO(samples[index].image)) for index in (0, 2)]
    with torch.inference_mode():
        output = model(**processor(text=["a photo of a trainer"], images=images, padding=True, return_tensors="pt"))
    change = float((output.image_embeds[1] - output.image_embeds[0]) @ output.text_embeds[0])
    assert edit.scores["class"] == pytest.approx(change, abs=1e-5)
    assert "class" not in edit.verdict.reasons
    least = verifier(folder, words, min_class=change + 0.01).config
    assert "class" in verdict_reasons(edit.scores, least, text_changes=True)
    assert "not_finite" in verdict_reasons({**GOOD, "class": math.nan}, least, text_changes=True)


# Of 400 swaps CLIP's other checks reject 67, and 400 with min_class; of 400 new backgrounds 1 and 2.
@pytest.mark.parametrize(
    ("settings", "rejected"),
    [(ONE_CLIP, 7), ((*ONE_CLIP, "stages.verifier.min_class=-0.06"), 60), ((), 58)],
    ids=["clip", "class", "demo"],
)
def test_a_replaced_garment_is_found_though_the_caption_says_so(settings: tuple[str, ...], rejected: int) -> None:
    exam = Exam(judge=None, num_scenes=60)
    config = load_run_file(DEMO, settings).stages["verifier"]
    stage = Verifier(config, CPU, name="verifier", offline=True)

    def num_rejected(kind: str) -> int:
        goals = targets(exam.scenes, kind)
        found = list(stage(batch_of(exam, kind, goals, [picture(goal) for goal in goals])))[len(goals) :]
        return sum(not edit.verdict.accepted for edit in found)

    # A language model that replaces the garment says so in the caption: most pass the other checks.
    assert num_rejected("garment") == pytest.approx(rejected, abs=2)
    assert num_rejected("background") <= 2


def test_scores_do_not_depend_on_neighbours(folder: Path) -> None:
    stage = verifier(folder, batch_size=8)
    together = list(stage([*group("a"), *group("b")]))
    alone = list(stage(group("b")))
    for one, other in zip(alone, together[3:], strict=True):
        assert isinstance(one, Sample)
        assert isinstance(other, Sample)
        assert repr(one.scores) == repr(other.scores)


def test_scores_do_not_depend_on_the_threads_that_decode(folder: Path) -> None:
    batch = [sample for number in range(7) for sample in group(str(number))]
    batch[4] = replace(batch[4], image=b"no image")
    alone, many = (list(verifier(folder, placement=Placement(num_cpus=num_cpus))(batch)) for num_cpus in (0.5, 4))
    assert [sample.key for sample in alone] == [sample.key for sample in batch]
    assert list(map(repr, alone)) == list(map(repr, many))


def test_a_black_picture_is_turned_down_by_name(folder: Path) -> None:
    edit = list(verifier(folder)(group("a", image=black())))[2]
    assert isinstance(edit, Sample)
    assert edit.scores["contrast"] == 0
    assert edit.verdict is not None
    assert not edit.verdict.accepted
    assert "contrast" in edit.verdict.reasons


def test_bytes_that_are_no_image_are_a_rejection(folder: Path) -> None:
    source, _, edit = group("a", image=b"no image")
    _, broken = verifier(folder)([source, edit])
    assert isinstance(broken, Rejection)
    assert (broken.reason, broken.stage) == ("unreadable_image", "verifier")
    _, missing = verifier(folder)([source, replace(edit, image=b"")])
    assert isinstance(missing, Rejection)
    assert missing.reason == "no_image"


def test_a_source_is_never_turned_down(folder: Path) -> None:
    source = replace(group("a")[0], image=b"no image")
    (result,) = verifier(folder)([source])
    assert isinstance(result, Sample)
    assert result.verdict is None
    assert not result.scores


def test_a_source_without_a_caption_has_no_text_score(folder: Path) -> None:
    (result,) = verifier(folder)([replace(group("a")[0], caption="")])
    assert isinstance(result, Sample)
    assert math.isnan(result.scores["text_source"])
    assert result.scores["contrast"] > 0


@pytest.mark.parametrize(
    ("score", "value"),
    [("image", 0.69), ("text_source", 0.19), ("text_edit", 0.19), ("directional", 0.19), ("consistency", 0.0),
     ("contrast", 0.01)],
)  # fmt: skip
def test_each_threshold_is_a_named_reason(score: str, value: float) -> None:
    config = VerifierConfig(model=ModelConfig(name="x"))
    assert verdict_reasons(GOOD, config, text_changes=True) == ()
    assert verdict_reasons({**GOOD, score: value}, config, text_changes=True) == (score,)


def test_a_placebo_is_not_asked_for_a_direction() -> None:
    config = VerifierConfig(model=ModelConfig(name="x"))
    scores = {**GOOD, "directional": math.nan, "consistency": math.nan}
    assert verdict_reasons(scores, config, text_changes=False) == ()
    assert verdict_reasons(scores, config, text_changes=True) == ("not_finite",)


def test_a_nan_score_is_turned_down() -> None:
    config = VerifierConfig(model=ModelConfig(name="x"))
    assert verdict_reasons({**GOOD, "image": math.nan}, config, text_changes=True) == ("not_finite",)


def test_consistency_can_be_switched_off() -> None:
    config = VerifierConfig(model=ModelConfig(name="x"), consistency=False)
    assert verdict_reasons({**GOOD, "consistency": -1.0}, config, text_changes=True) == ()


def test_direction_is_undefined_without_change() -> None:
    one, other = np.eye(4, dtype=np.float32)[:2]
    assert math.isnan(directional(one, one, one, other))
    assert directional(one, other, one, other) == pytest.approx(1.0)
    assert directional(one, other, other, one) == pytest.approx(-1.0)


def test_contrast_is_zero_for_one_colour() -> None:
    assert contrast(Image.new("RGB", (8, 8), (9, 90, 200))) == 0
    half = np.repeat(np.asarray([[0], [255]], dtype=np.uint8), 8, axis=1)
    assert contrast(Image.fromarray(half)) == pytest.approx(0.5)


def test_a_model_without_two_towers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="use a CLIP"):
        verifier(save_language_model(tmp_path))
