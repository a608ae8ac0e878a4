"""Every arm is scored on the same test images, by group and against each other; only here is the test split read."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_pictures import encoded, grey_profile, png_16
from PIL import Image
from scipy import stats
from tiny_classifiers import save_checkpoint

from cluster.phases.arms import arm_refs, evaluate_arms
from cluster.phases.evaluate import evaluate_model
from engine.errors import ModelError, SourceError
from engine.evaluation.comparison import PairedImages
from engine.plan.plan import make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.data import DataConfig, FolderSource, Splits, TableSource, WardrobeSource
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import ReportConfig, RunFile, ShardConfig
from engine.sample import Rejection, Sample, Split
from engine.sources import Source, SourceItem, open_source, read_sample

CLASSES = ("boot", "coat")
# Two black boxes: one looks at the object in the left half, one at the background in the right half.
BOXES = """
import numpy as np

def _ask(images, left):
    answers = []
    for image in images:
        pixels = np.asarray(image, float)
        half = pixels[:, :8] if left else pixels[:, 8:]
        answers.append([0.9, 0.1] if half.mean() < 128 else [0.1, 0.9])
    return answers

def object_reader(images):
    return _ask(images, True)

def background_reader(images):
    return _ask(images, False)

def swapped_reader(images):
    return [row[::-1] for row in _ask(images, True)]

def three_reader(images):
    white = [np.asarray(image)[:, 8:].mean() > 250 for image in images]
    return [[0, 0, 1] if odd else [*row, 0] for odd, row in zip(white, _ask(images, True))]
"""


@pytest.fixture(autouse=True)
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evaluate_boxes.py").write_text(BOXES)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_source_is_scored_by_class_and_group(tmp_path: Path) -> None:
    source = make_table(tmp_path, "shifted", conflict=0.5)
    evaluation = evaluate_model(
        _box("background_reader"), source, dominant={"boot": {"background": "dark"}, "coat": {"background": "light"}}
    )
    content = evaluation.to_json()
    assert content["group_by"] == ["background"]
    assert (content["n"], content["accuracy"]) == (80, 0.5)
    assert (content["conflict_accuracy"], content["aligned_accuracy"], content["worst_group_accuracy"]) == (0, 1, 0)
    assert content["unreadable"] == {}
    json.dumps(content, allow_nan=False)


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    """A model of four classes that answers three of ten coats with `coat` and the others with classes of its own."""
    model = save_checkpoint(tmp_path / "four", "resnet", ["bag", "Coat", "boot", "shirt"], seed=3)
    coats = tmp_path / "coats" / "coat"
    coats.mkdir(parents=True)
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8) // (1 + number % 7)
        Image.fromarray(pixels.astype(np.uint8)).save(coats / f"{number}.png")
    return model


def test_data_of_one_class_are_scored_over_all_classes_of_the_model(tmp_path: Path, seeing: Path) -> None:
    from transformers import AutoModelForImageClassification

    from actors.classifier.classifier import Classifier

    config = ProbeConfig(model=ModelConfig(name=str(seeing)), batch_size=16)
    source = FolderSource(path=str(tmp_path / "coats"))
    images = [path.read_bytes() for path in sorted((tmp_path / "coats" / "coat").iterdir())]
    network = Classifier(config, ["coat"]).network
    model = AutoModelForImageClassification.from_pretrained(seeing).eval()
    with torch.inference_mode():
        logits = model(network.inputs([network.read(image) for image in images])).logits
    right = int((logits.argmax(1) == 1).sum())
    assert right < 40  # else this test shows nothing
    content = evaluate_model(config, source).to_json()
    assert (content["n"], content["correct"]) == (40, right)
    assert (content["model_classes"], content["restricted"], content["num_other_answers"]) == (4, False, 40 - right)
    assert content["nll"] == pytest.approx(-float(logits.log_softmax(1)[:, 1].mean()), abs=0.01)
    restricted = evaluate_model(config, source, restricted=True).to_json()
    assert (restricted["correct"], restricted["restricted"], restricted["num_other_answers"]) == (40, True, 0)
    assert restricted["taken_in_order"] is None
    json.dumps(content, allow_nan=False)


def test_a_class_that_the_model_does_not_know_is_refused(tmp_path: Path, seeing: Path) -> None:
    (tmp_path / "coats" / "coat").rename(tmp_path / "coats" / "hat")
    config = ProbeConfig(model=ModelConfig(name=str(seeing)))
    with pytest.raises(ModelError, match="does not know 'hat', it knows 'bag', 'Coat', 'boot', 'shirt'"):
        evaluate_model(config, FolderSource(path=str(tmp_path / "coats")))


def test_a_function_in_the_wrong_order_is_said_and_its_classes_can_be_named(tmp_path: Path) -> None:
    source = make_folder(tmp_path, per_class=40)
    content = evaluate_model(_box("swapped_reader"), source).to_json()
    assert content["accuracy"] == 0
    assert content["taken_in_order"] == ["boot", "coat"]
    assert "0.0\u202f% are right as they are taken, 100.0\u202f% with output 0 as 'coat', 1 as 'boot'" in str(
        content["wrong_order"]
    )
    named = evaluate_model(_box("swapped_reader"), source, classes=["coat", "boot"]).to_json()
    assert (named["accuracy"], named["wrong_order"], named["taken_in_order"]) == (1, None, ["coat", "boot"])
    with pytest.raises(SourceError, match="the images have the classes 'coat', which --classes leaves out"):
        evaluate_model(_box("swapped_reader"), source, classes=["boot", "hat"])


def test_a_function_of_more_classes_is_scored_on_data_of_some(tmp_path: Path) -> None:
    """It answers `hat`, which no image is, for one of ten images of each class."""
    source = make_folder(tmp_path, per_class=20)
    content = evaluate_model(_box("three_reader"), source, classes=["boot", "coat", "hat"])
    assert (content.report.overall.n, content.report.overall.correct) == (40, 36)
    assert content.to_json()["num_other_answers"] == 4
    assert list(content.report.classes) == ["boot", "coat"]


def test_a_plain_folder_has_no_attributes_and_no_conflict(tmp_path: Path) -> None:
    evaluation = evaluate_model(_box("object_reader"), make_folder(tmp_path))
    content = evaluation.to_json()
    assert (content["accuracy"], content["conflict_accuracy"], content["group_by"]) == (1, None, [])


def test_an_image_that_cannot_be_read_is_counted_apart(tmp_path: Path) -> None:
    source = make_folder(tmp_path)
    (tmp_path / "folder" / "boot" / "broken.jpg").write_bytes(b"no image")
    evaluation = evaluate_model(_box("object_reader"), source)
    assert evaluation.unreadable == {"unreadable_image": 1}
    assert (evaluation.report.overall.n, evaluation.report.overall.accuracy) == (12, 1)


def test_12_bits_in_16_score_as_8_bits_do(tmp_path: Path) -> None:
    garments = open_source(WardrobeSource(split="heldout", count=40, correlation=0.998))
    for item in garments.items():
        with Image.open(io.BytesIO(garments.read(item))) as image:
            pixels = np.asarray(image)
        for name, data in (
            ("8", encoded(image, "PNG")),
            ("12", png_16(np.round(pixels * (4095 / 255)).astype(np.uint16))),
            ("grey", encoded(image.convert("L"), "PNG")),
            ("int32", encoded(Image.fromarray(np.asarray(image.convert("L"), np.int32)), "TIFF")),
        ):
            path = tmp_path / name / item.class_name / f"{item.key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    patient = ProbeConfig(model=ModelConfig(name="zoo/patient"))
    found = {name: evaluate_model(patient, FolderSource(path=str(tmp_path / name))) for name in ("8", "12")}
    assert found["8"].report.overall.accuracy > 0.7
    assert found["12"].answers == found["8"].answers
    assert [evaluate_model(patient, FolderSource(path=str(tmp_path / name))).answers for name in ("grey", "int32")] == [
        evaluate_model(patient, FolderSource(path=str(tmp_path / "grey"))).answers
    ] * 2


def test_the_classifier_sees_colours_as_srgb_unless_it_reads_raw_numbers(tmp_path: Path) -> None:
    # 60 of linear brightness is 133 in sRGB: light, which is a coat.
    for name, shade in (("boot", 3), ("coat", 60)):
        (tmp_path / "linear" / name).mkdir(parents=True)
        image = Image.new("L", (16, 16), shade)
        image.save(tmp_path / "linear" / name / "1.png", icc_profile=grey_profile(1.0))
    for colour, accuracy in (("srgb", 1), ("raw", 0.5)):
        source = FolderSource(path=str(tmp_path / "linear"), colour=colour)
        assert evaluate_model(_box("object_reader"), source).report.overall.accuracy == accuracy


def test_where_no_image_can_be_read_nothing_is_scored(tmp_path: Path) -> None:
    source = make_folder(tmp_path)
    for path in (tmp_path / "folder").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SourceError, match=r"none of the 12 images of .*folder can be read \(12 unreadable image\)"):
        evaluate_model(_box("object_reader"), source)


def test_what_is_left_out_of_a_listing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_folder(tmp_path)
    _write_halves(tmp_path / "folder" / "loose.png", 40, 100)
    assert evaluate_model(_box("object_reader"), source).report.overall.n == 12
    assert f"1 images in {source.path} itself are in no class folder and were left out: 'loose.png'" in caplog.text


def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"asks for \['weather'\], the images have the attributes \['background'\]"):
        evaluate_model(_box("object_reader"), make_table(tmp_path, "shifted", conflict=0.5), group_by=["weather"])


def test_the_patient_is_scored_on_the_test_split_where_no_test_set_is_named(tmp_path: Path) -> None:
    run, rundir = make_run(tmp_path, shifted=False)
    content = evaluate_arms(run, rundir)
    arms = content["arms"]
    assert isinstance(arms, dict)
    assert list(arms) == ["patient"]
    patient = arms["patient"]
    assert isinstance(patient, dict)
    test_keys = [item.key for item, _ in rundir.plan().of_split("test")]
    assert isinstance(patient["test"], dict)
    assert patient["test"]["n"] == len(test_keys) > 0
    assert patient["shifted"] == patient["test"]
    assert content["dominant"] == {"boot": {"background": "dark"}, "coat": {"background": "light"}}
    assert rundir.read_json("evaluation.json") == content


def test_every_arm_of_the_reinforcement_is_scored_on_both_sets(tmp_path: Path) -> None:
    run, rundir = make_run(tmp_path, shifted=True)
    for seed, arm in enumerate(("real_only", "reinforced")):
        save_checkpoint(Path(rundir.storage.local_path(f"models/{arm}")), "resnet", list(CLASSES), seed=seed)
    reinforced = {"arms": {"patient": {}} | {arm: {"model": f"models/{arm}"} for arm in ("real_only", "reinforced")}}
    rundir.write_json("reinforce.json", reinforced)
    content = evaluate_arms(run, rundir)
    assert list(arm_refs(run, rundir)) == ["patient", "real_only", "reinforced"]
    arms = content["arms"]
    assert isinstance(arms, dict)
    for arm in arms.values():
        assert isinstance(arm, dict)
        assert isinstance(arm["shifted"], dict)
        assert arm["shifted"]["n"] == 80
        assert rundir.exists(f"probe/{arm['digest']}/000000.parquet")
    patient = arms["patient"]
    assert isinstance(patient, dict)
    assert isinstance(patient["shifted"], dict)
    # The background reader is right only where class and background agree.
    assert (patient["shifted"]["conflict_accuracy"], patient["shifted"]["aligned_accuracy"]) == (0, 1)
    comparisons = content["comparisons"]
    assert isinstance(comparisons, list)
    found = {(row["set"], row["arm"], row["against"], row["where"]) for row in comparisons if isinstance(row, dict)}
    assert ("shifted", "reinforced", "patient", "conflict") in found
    assert ("test", "reinforced", "real_only", "all") in found


def test_an_image_is_read_once_for_all_arms_that_a_device_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rundir = make_run(tmp_path, shifted=True)
    arms = ("first", "second", "third")
    for seed, arm in enumerate(arms):
        save_checkpoint(Path(rundir.storage.local_path(f"models/{arm}")), "resnet", list(CLASSES), seed=seed)
    rundir.write_json("reinforce.json", {"arms": {arm: {"model": f"models/{arm}"} for arm in arms}})
    num_read = 0

    def counted(source: Source, item: SourceItem, split: Split) -> Sample | Rejection:
        nonlocal num_read
        num_read += 1
        return read_sample(source, item, split)

    def content_and_reads(most_held: int) -> tuple[object, int]:
        nonlocal num_read
        num_read = 0
        monkeypatch.setattr("cluster.phases.classifiers.MOST_HELD", most_held)
        rundir.storage.delete("evaluation.json")
        return evaluate_arms(run, rundir), num_read

    monkeypatch.setattr("cluster.phases.evaluate.read_sample", counted)
    together, once = content_and_reads(1 << 30)
    alone, once_for_each = content_and_reads(1)
    assert together == alone
    assert once_for_each == 4 * once > 0


def test_an_evaluation_of_the_same_models_and_data_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rundir = make_run(tmp_path, shifted=False)
    first = evaluate_arms(run, rundir)
    monkeypatch.setattr("cluster.phases.arms.score_answers", None)
    assert evaluate_arms(run, rundir) == first


def test_the_difference_of_two_classifiers_is_mcnemars() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.uniform(size=300) < 0.8, generator.uniform(size=300) < 0.6
    pairs = PairedImages([str(number) for number in range(300)], num_draws=1000, confidence=0.95)
    result = pairs.compare(("a", "b"), (list(first), list(second)), [True] * 300, test_set="test", where="all")
    assert result is not None
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    assert (result.gained, result.lost) == (gained, lost)
    assert result.difference == pytest.approx((gained - lost) / 300)
    assert result.low < 0.2 < result.high
    assert result.p_value == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)


def test_images_of_one_subject_are_no_independent_evidence() -> None:
    """Ten pictures of each of 30 subjects: the interval is that of 30, not of 300."""
    right = np.repeat(np.random.default_rng(0).uniform(size=30) < 0.5, 10)
    wrong = ~right
    alone = PairedImages([str(number) for number in range(300)], num_draws=1000, confidence=0.95)
    together = PairedImages([str(number // 10) for number in range(300)], num_draws=1000, confidence=0.95)
    widths = []
    for pairs in (alone, together):
        result = pairs.compare(("a", "b"), (list(right), list(wrong)), [True] * 300, test_set="test", where="all")
        assert result is not None
        widths.append(result.high - result.low)
    assert widths[1] > 2 * widths[0]


def make_run(folder: Path, *, shifted: bool) -> tuple[RunFile, RunDirectory]:
    """A run whose shards hold sources only, on data where each class sits on its own background."""
    run = RunFile(
        name="tiny",
        data=DataConfig(
            train=make_table(folder, "train", conflict=0.05),
            shifted=make_table(folder, "shifted", conflict=0.5) if shifted else None,
            splits=Splits(train=0.7, validation=0.0, test=0.3),
            num_sources=4,
        ),
        shards=ShardConfig(sources_per_shard=4),
        stages={"captioner": CaptionerConfig(model=ModelConfig(name="zoo/captioner"))},
        probe=_box("background_reader"),
        report=ReportConfig(group_by=("background",)),
    )
    plan = make_plan(run)
    rundir = RunDirectory.create(str(folder / "run"), run, plan)
    source = open_source(run.data.train)
    samples = [read_sample(source, item, split) for item, split in plan.shard(0)]
    assert all(isinstance(sample, Sample) for sample in samples)
    commit_shard(rundir, 0, plan.keys(0), samples, {})
    return run, rundir


def make_table(folder: Path, name: str, *, conflict: float) -> TableSource:
    """80 images: boots are dark on the left, coats light; the right half is the background, which agrees or not."""
    lines = ["path,label,background"]
    for number in range(80):
        label = number % 2
        differs = number // 2 % 20 < 20 * conflict
        side = label != differs
        path = folder / name / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        _write_halves(path, 40 + 180 * label, 40 + 180 * side)
        lines.append(f"{path.name},{CLASSES[label]},{('dark', 'light')[side]}")
    table = folder / name / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    return TableSource(path=str(table), attributes=("background",))


def make_folder(folder: Path, per_class: int = 6) -> FolderSource:
    """Images of each class in class folders; every tenth has a white background."""
    for label, name in enumerate(CLASSES):
        (folder / "folder" / name).mkdir(parents=True)
        for number in range(per_class):
            side = 255 if number % 10 == 9 else 100
            _write_halves(folder / "folder" / name / f"{number}.png", 40 + 180 * label, side)
    return FolderSource(path=str(folder / "folder"))


def _write_halves(path: Path, left: int, right: int) -> None:
    pixels = np.full((16, 16, 3), left, np.uint8)
    pixels[:, 8:] = right
    Image.fromarray(pixels).save(path)


def _box(name: str) -> ProbeConfig:
    return ProbeConfig(callable=f"evaluate_boxes:{name}", num_bootstraps=200, batch_size=16)
