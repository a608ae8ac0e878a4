"""The signals beyond CLIP: what each scores, beside what, and that a dear one is asked of few."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from edited_groups import group
from PIL import Image
from tiny_models import jpeg, save_clip
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from actors.images.codec import decode_rgb
from actors.language.answers import BadReply
from actors.models.device import fix_threads
from actors.verifier.signals.spectrum import Spectrum, traces
from actors.verifier.verifier import Verifier
from actors.zoo.recipes.training.pictures import save_image_processor
from engine.errors import ModelError
from engine.runfile.verifier import VerifierConfig
from engine.sample import Edit, Sample
from engine.sources.decode import encode_jpeg
from engine.wardrobe.garments import CLASSES, load_garments
from engine.wardrobe.scene import make_scenes, render

CPU = torch.device("cpu")
SMALL = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_clip(tmp_path_factory.mktemp("models") / "clip"))


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "eyes"
    torch.manual_seed(0)
    ResNetModel(ResNetConfig(**SMALL)).save_pretrained(folder)
    save_image_processor(folder, "ViTImageProcessor")
    return str(folder)


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "guard"
    torch.manual_seed(1)
    labels = {0: "normal", 1: "nsfw", 2: "violence"}
    ResNetForImageClassification(ResNetConfig(**SMALL, id2label=labels)).save_pretrained(folder)
    save_image_processor(folder, "ViTImageProcessor")
    return str(folder)


def verifier(**settings: object) -> Verifier:
    return Verifier(VerifierConfig.model_validate({"batch_size": 4, **settings}), CPU, name="verifier", offline=True)


def judged(stage: Verifier, samples: Sequence[Sample]) -> dict[str, Sample]:
    return {item.key: item for item in stage(samples) if isinstance(item, Sample)}


def test_an_encoder_of_images_compares_an_edit_with_its_placebo(eyes: str) -> None:
    near = {"eyes": {"kind": "vision", "model": {"name": eyes}}}
    samples = group("a")
    same = replace(samples[2], key="a_cf01", image=samples[1].image)
    found = judged(verifier(signals=near, floors={"eyes": 0.999}), [*samples, same])
    # The picture of the placebo again is the placebo, whatever the source looks like.
    assert found["a_cf01"].scores["eyes"] == pytest.approx(1.0, abs=1e-6)
    assert found["a_cf00"].scores["eyes"] < 0.999
    assert found["a_cf00"].verdict is not None
    assert found["a_cf00"].verdict.reasons == ("eyes",)
    assert found["a_cf01"].is_accepted
    assert "eyes" not in found["a"].scores
    beside_source = {"eyes": near["eyes"] | {"beside": "source"}}
    other = judged(verifier(signals=beside_source), [*samples, same])
    assert other["a_cf01"].scores["eyes"] == other["a_placebo"].scores["eyes"]
    assert found["a_placebo"].scores["eyes"] == other["a_placebo"].scores["eyes"]


def test_an_edit_without_a_placebo_is_compared_with_its_source(eyes: str) -> None:
    source, _, edit = group("a")
    found = judged(verifier(signals={"eyes": {"kind": "vision", "model": {"name": eyes}}}), [source, edit])
    beside = {"kind": "vision", "model": {"name": eyes}, "beside": "source"}
    again = judged(verifier(signals={"eyes": beside}), [source, edit])
    assert found["a_cf00"].scores["eyes"] == again["a_cf00"].scores["eyes"]


def test_an_edit_is_compared_with_the_placebo_of_its_own_strategy(eyes: str) -> None:
    source, placebo, edit = group("a")
    assert placebo.edit is not None
    assert edit.edit is not None
    fill = replace(
        placebo, key="a_placebo_fill", image=jpeg((9, 9, 9), seed=7), edit=replace(placebo.edit, strategy="fill")
    )
    filled = replace(edit, key="a_cf01", image=fill.image, edit=replace(edit.edit, strategy="fill"))
    signals = {"eyes": {"kind": "vision", "model": {"name": eyes}}}
    found = judged(verifier(signals=signals), [source, placebo, fill, edit, filled])
    assert found["a_cf01"].scores["eyes"] == pytest.approx(1.0, abs=1e-6)
    assert found["a_cf00"].scores["eyes"] != pytest.approx(found["a_cf01"].scores["eyes"], abs=1e-6)


def test_scores_do_not_depend_on_neighbours(eyes: str, guard: str) -> None:
    stage = verifier(
        signals={
            "eyes": {"kind": "vision", "model": {"name": eyes}},
            "safe": {"kind": "classifier", "model": {"name": guard}, "refuse": ["nsfw"], "asked_of": "passing"},
            "grid": {"kind": "spectrum"},
        }
    )
    alone = judged(stage, group("a"))
    among = judged(stage, [*group("b", image=jpeg((1, 2, 3), seed=9)), *group("a"), *group("c")])
    for key, sample in alone.items():
        assert sample.scores == among[key].scores


def test_a_second_clip_has_the_scores_of_the_first_behind_its_name(clip: str) -> None:
    signals = {"second": {"kind": "clip", "model": {"name": clip}}, "grid": {"kind": "spectrum"}}
    found = judged(verifier(model={"name": clip}, signals=signals), group("a"))
    scores = found["a_cf00"].scores
    for name in ("image", "text_source", "text_edit", "directional", "consistency"):
        assert scores[f"second.{name}"] == scores[name]
    record = found["a_cf00"].provenance["verifier"]
    assert isinstance(record, dict)
    # One without a model has nothing to record, and a table no column for that.
    assert record["signals"] == {"second": {"model": record["model"]}}


def test_refused_labels_are_scored_of_sources_too(guard: str) -> None:
    signals = {"safe": {"kind": "classifier", "model": {"name": guard}, "refuse": ["nsfw", "violence"]}}
    found = judged(verifier(signals=signals), group("a"))
    model = ResNetForImageClassification.from_pretrained(guard).eval()
    for key, sample in found.items():
        pixels = np.asarray(decode_rgb(sample.image).resize((64, 64), Image.Resampling.BILINEAR), np.float32)
        inputs = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.inference_mode():
            expected = float(model(inputs).logits.softmax(1)[0, 0])
        assert sample.scores["safe"] == pytest.approx(expected, abs=1e-3), key


def test_a_label_that_the_classifier_has_not_is_named(guard: str) -> None:
    signals = {"safe": {"kind": "classifier", "model": {"name": guard}, "refuse": ["gore"]}}
    with pytest.raises(
        ModelError, match=r"signals.safe.refuse: .* has no label 'gore', it has: normal, nsfw, violence"
    ):
        verifier(signals=signals)


def test_a_clip_is_no_second_pair_of_eyes(clip: str) -> None:
    with pytest.raises(ModelError, match=r"signals.eyes: .* a signal of kind clip"):
        verifier(signals={"eyes": {"kind": "vision", "model": {"name": clip}}})


def test_a_dear_signal_sees_the_groups_of_edits_that_pass_alone(eyes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dear = {"eyes": {"kind": "vision", "model": {"name": eyes}, "asked_of": "passing"}}
    stage = verifier(signals=dear, floors={"eyes": -1.0}, min_contrast=0.01)
    seen: list[int] = []
    (signal,) = stage._looks[1].signals
    see = signal.see
    monkeypatch.setattr(signal, "see", lambda prepared: seen.append(len(prepared)) or see(prepared))
    black = encode_jpeg(Image.new("RGB", (32, 32)))
    flat = group("b", image=black)
    results = judged(stage, [*group("a"), flat[0], flat[2]])
    # The source, placebo and edit of the first group; nothing of the second, whose edit is black.
    assert sum(seen) == 3
    assert "eyes" in results["a_cf00"].scores
    assert results["a_cf00"].is_accepted
    assert results["b_cf00"].verdict is not None
    assert results["b_cf00"].verdict.reasons == ("contrast",)
    assert "eyes" not in results["b_cf00"].scores


def pictures(count: int) -> list[np.ndarray]:
    garments = load_garments("heldout")
    return [render(scene, garments)[0] for scene in make_scenes(garments, "spectrum", count)]


def spectrum_scores(edit: np.ndarray, placebo: np.ndarray) -> dict[str, float]:
    signal = Spectrum("grid")
    seen = [signal.prepare(decode_rgb(encode_jpeg(Image.fromarray(each)))) for each in (edit, placebo)]
    source = group("a")[0]
    edited = replace(source, edit=Edit(kind="x", before="", after="", instruction="", caption=""))
    return signal.edit_scores(edited, seen[0], seen[1], seen[1])


def area(good: Sequence[float], bad: Sequence[float]) -> float:
    """Return the area under the ROC: how often a good edit has the higher score."""
    pairs = np.array(good)[:, None] - np.array(bad)[None, :]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def checkered(picture: np.ndarray) -> np.ndarray:
    """Every second pixel of every second row lighter: a transposed convolution of stride 2 that overlaps unevenly."""
    lighter = picture.astype(np.float32)
    lighter[::2, ::2] += 10
    return lighter.clip(0, 255).astype(np.uint8)


def blown_up(picture: np.ndarray) -> np.ndarray:
    return picture[::2, ::2].repeat(2, 0).repeat(2, 1)


def tiled(picture: np.ndarray) -> np.ndarray:
    return np.tile(picture[:16, :16], (4, 4, 1))


@pytest.mark.parametrize(
    ("score", "spoiled"),
    [
        ("grid.grid", checkered),
        ("grid.resampling", blown_up),
        ("grid.repetition", tiled),
    ],
)
def test_traces_of_a_decoder_are_told_from_other_grounds(score: str, spoiled: object) -> None:
    made = pictures(120)
    edits, placebos = made[:60], made[60:]
    good = [spectrum_scores(edit, placebo)[score] for edit, placebo in zip(edits, placebos, strict=True)]
    bad = [spectrum_scores(spoiled(edit), placebo)[score] for edit, placebo in zip(edits, placebos, strict=True)]  # type: ignore[operator]
    assert area(good, bad) > 0.95


def test_a_plain_picture_has_no_traces() -> None:
    found = traces(np.full((32, 48), 0.5))
    assert found.repetition == 0
    assert found.grid == pytest.approx(0, abs=1e-6)
    assert np.isnan(traces(np.random.default_rng(0).uniform(size=(9, 48)))).all()


def scene_group(swapped: bool) -> list[Sample]:
    """A shirt of the wardrobe, and an edit of its ground that keeps it or has put a bag in its place."""
    garments = load_garments("heldout")
    scene = next(scene for scene in make_scenes(garments, "signals", 60) if scene.class_name == "trouser")
    edited = replace(scene, background="sand" if scene.background != "sand" else "snow")
    if swapped:
        label = CLASSES.index("bag")
        edited = replace(edited, label=label, garment=int(garments.of_class(label)[0]))
    source, _, edit = group("a")
    images = [encode_jpeg(Image.fromarray(render(each, garments)[0])) for each in (scene, edited)]
    return [
        replace(sample, image=image, class_name="trouser") for sample, image in zip((source, edit), images, strict=True)
    ]


def test_a_model_that_sees_names_the_class_and_says_so_in_words() -> None:
    signals = {"said": {"kind": "description", "model": {"name": "zoo/captioner"}}}
    stage = verifier(signals=signals, floors={"said": 0.5})
    kept, swapped = (judged(stage, scene_group(swapped))["a_cf00"] for swapped in (False, True))
    assert kept.verdict is not None
    assert swapped.verdict is not None
    assert (kept.scores["said"], swapped.scores["said"]) == (1.0, 0.0)
    assert swapped.verdict.reasons == ("said",)
    assert "trouser" in kept.verdict.notes["said"]
    assert "bag" in swapped.verdict.notes["said"]


def test_a_model_that_says_nothing_leaves_the_score_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = verifier(
        signals={"said": {"kind": "description", "model": {"name": "zoo/captioner"}}}, floors={"said": 0.5}
    )
    refused = BadReply(reason="server_refused", detail="too large")
    for answer in ("", refused):
        (*_, signal) = stage._looks[0].signals
        monkeypatch.setattr(signal._model, "answers", lambda images, said=answer: [(each, said) for each in images])
        found = judged(stage, scene_group(swapped=False))["a_cf00"]
        assert np.isnan(found.scores["said"])
        assert found.verdict is not None
        assert found.verdict.reasons == ("not_finite",)
        assert found.verdict.notes["said"] == ("too large" if answer else "")
