"""The parts of fine-tuning that need no cluster: images in their order, the patient's head, precision, state."""

import io
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_run import CLASSES, SIZE, committed_run, edited, plant, run_file, save_images, save_resnet, save_vit
from odd_pictures import ADOBE_RGB, png_16, rgb_profile
from PIL import Image

from actors.finetune.batches import DecodedImages, RealImages, TrainingImages
from actors.finetune.model import (
    BaseClassifier,
    adapted,
    freeze_batch_norm,
    interpolate,
    merged,
    parameter_groups,
    prepare_precision,
)
from actors.finetune.stream import Counterfactuals, Place, StreamedEdit, read_validation_edits
from actors.images.codec import decode_rgb
from actors.images.preprocessing import Preprocessing
from actors.models.batching import ahead
from actors.models.files import resolve_model
from actors.models.loading import load_image_processor
from engine.errors import LeakError, ModelError, ShardError
from engine.run.directory import RunDirectory
from engine.runfile.arms import PRESETS
from engine.runfile.fields import ModelConfig
from engine.runfile.reinforce import LoraSettings, ReinforceConfig
from engine.runfile.run import RunFile
from engine.sample import Rejection, Split, content_seed
from engine.sources import open_source, read_sample
from engine.storage.storage import Storage
from engine.training.contents import EditCell, ShardContents, inspect_shards, source_splits
from engine.training.gate import Gate, Score
from engine.training.groups import Groups
from engine.training.progress import ArmRecord, Entry, Point, Progress
from engine.training.recipe import Share

ALONE = Place(rank=0, size=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetuner")
    save_images(folder / "images")
    save_resnet(folder / "patient")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFile:
    return run_file(folder / "images", folder / "patient")


@pytest.fixture(scope="module")
def rundir(folder: Path, run: RunFile) -> RunDirectory:
    return committed_run(folder / "run", run)


@pytest.fixture(scope="module")
def contents(run: RunFile, rundir: RunDirectory) -> tuple[ShardContents, ...]:
    return inspect(run, rundir)


@pytest.fixture(scope="module")
def splits(rundir: RunDirectory) -> dict[str, Split]:
    names: tuple[Split, ...] = ("train", "validation", "test")
    return {planned.item.key: name for name in names for planned in rundir.plan().of_split(name)}


@pytest.fixture(scope="module")
def preprocessing(folder: Path) -> Preprocessing:
    model = ModelConfig(name=str(folder / "patient"))
    return Preprocessing(load_image_processor(resolve_model(model, offline=True)))


@pytest.fixture
def real(run: RunFile, rundir: RunDirectory, preprocessing: Preprocessing) -> RealImages:
    items = [planned.item for planned in rundir.plan().of_split("train")]
    return RealImages(open_source(run.data.train), items, preprocessing)


@pytest.fixture
def edits(rundir: RunDirectory, contents: tuple[ShardContents, ...], splits: dict[str, Split]) -> Counterfactuals:
    """The edits of one worker alone that draws all of them equally often."""
    return Counterfactuals(rundir, contents, once(contents), splits, ALONE, 0)


@pytest.fixture
def images(edits: Counterfactuals, real: RealImages, preprocessing: Preprocessing) -> TrainingImages:
    """The images of such a worker."""
    return TrainingImages(real, edits, preprocessing, 0)


def inspect(run: RunFile, rundir: RunDirectory) -> tuple[ShardContents, ...]:
    return inspect_shards(rundir, run.reinforce, source_splits(rundir.plan(), run.data.splits, run.seed))


def open_shard(rundir: RunDirectory, name: str) -> io.BytesIO:
    return io.BytesIO(rundir.storage.read(name))


def every(first: int, step: int, records: Iterator[object]) -> Iterator[object]:
    return itertools.islice(records, first, None, step)


def keys(stream: Iterator[StreamedEdit]) -> list[str]:
    return [edit.key for edit in stream]


def once(contents: tuple[ShardContents, ...]) -> dict[EditCell, int]:
    return dict.fromkeys((cell for shard in contents for cell in shard.cells), 1)


def test_a_round_streams_every_accepted_train_counterfactual_once(
    rundir: RunDirectory, contents: tuple[ShardContents, ...], splits: dict[str, Split]
) -> None:
    stream = Counterfactuals(rundir, contents, once(contents), splits, ALONE, seed=0)
    wanted = {
        sample.key
        for index in rundir.done()
        for sample in rundir.read_shard(index)
        if sample.role == "counterfactual" and sample.split == "train"
    }
    first, second = keys(stream.round(0)), keys(stream.round(1))
    assert sorted(first) == sorted(second) == sorted(wanted)
    assert first != second
    assert stream.round_length == len(wanted)


def test_steered_edits_are_neither_counted_nor_trained_nor_scored_on(tmp_path: Path, run: RunFile) -> None:
    fair = committed_run(tmp_path / "run", run, edits=1)
    before = inspect(run, fair)
    scored = [sample.key for sample, _ in read_validation_edits(fair, before)]
    for index in fair.done():
        source = fair.read_shard(index)[-2]
        edit = edited(source, 1)
        assert edit.edit is not None
        plant(fair, index, replace(edit, edit=replace(edit.edit, steered=True)))
    contents = inspect(run, fair)
    assert contents == before
    stream = Counterfactuals(
        fair, contents, once(contents), source_splits(fair.plan(), run.data.splits, run.seed), ALONE, seed=0
    )
    drawn = keys(stream.round(0))
    assert len(drawn) == stream.round_length
    assert not [key for key in drawn if key.endswith("-cf1")]
    assert [sample.key for sample, _ in read_validation_edits(fair, contents)] == scored


def test_a_share_of_the_edits_is_counted_and_drawn_alike_and_holds_every_smaller_share(
    run: RunFile, rundir: RunDirectory, splits: dict[str, Split]
) -> None:
    found: list[set[str]] = []
    for share in (0.2, 0.6, 1.0):
        part = run.model_copy(update={"reinforce": run.reinforce.model_copy(update={"edit_share": share})})
        contents = inspect(part, rundir)
        stream = Counterfactuals(rundir, contents, once(contents), splits, ALONE, seed=0, edit_share=share)
        found.append(set(keys(stream.round(0))))
        assert len(found[-1]) == stream.round_length == sum(shard.train for shard in contents)
    assert found[0] < found[1] < found[2]
    assert 0.4 < len(found[1]) / len(found[2]) < 0.8


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_round_has_the_edits_of_a_cell_as_often_as_they_are_drawn(
    rundir: RunDirectory, contents: tuple[ShardContents, ...], splits: dict[str, Split], size: int
) -> None:
    draws = {cell: 3 if cell[0] == "blob" else 1 for cell in once(contents)}
    workers = [
        Counterfactuals(rundir, contents, draws, splits, Place(rank=rank, size=size), seed=0) for rank in range(size)
    ]
    parts = [keys(worker.round(0)) for worker in workers]
    assert [len(part) for part in parts] == [worker.round_length for worker in workers]
    drawn = Counter(key for part in parts for key in part)
    assert {key.split("-")[0]: count for key, count in drawn.items()} == {"blob": 3, "stripe": 1}
    assert len(drawn) == sum(shard.train for shard in contents)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_workers_share_a_round_without_overlap(
    rundir: RunDirectory, contents: tuple[ShardContents, ...], splits: dict[str, Split], size: int
) -> None:
    workers = [
        Counterfactuals(rundir, contents, once(contents), splits, Place(rank=rank, size=size), seed=0)
        for rank in range(size)
    ]
    parts = [keys(worker.round(0)) for worker in workers]
    assert [len(part) for part in parts] == [worker.round_length for worker in workers]
    assert len(set().union(*parts)) == sum(map(len, parts)) == sum(shard.train for shard in contents)


def test_a_stream_goes_on_from_any_position(
    rundir: RunDirectory, contents: tuple[ShardContents, ...], splits: dict[str, Split]
) -> None:
    stream = Counterfactuals(rundir, contents, once(contents), splits, ALONE, seed=0)
    walk = keys(itertools.islice(stream.stream(0), 3 * stream.round_length))
    position = stream.round_length + 7
    assert keys(itertools.islice(stream.stream(position), 20)) == walk[position : position + 20]


def test_the_loader_refuses_a_source_of_the_test_split(
    rundir: RunDirectory, contents: tuple[ShardContents, ...], splits: dict[str, Split]
) -> None:
    key = rundir.read_shard(2)[0].source_key
    stream = Counterfactuals(rundir, contents, once(contents), {**splits, key: "test"}, ALONE, seed=0)
    with pytest.raises(LeakError, match=rf"shard shards/000002.tar, sample {key}"):
        list(stream.round(0))


def test_replay_passes_every_image_once_a_round(real: RealImages) -> None:
    count = len(real.items)
    rounds = [[real.draw(position, 0)[0].tobytes() for position in range(start, start + count)] for start in (0, count)]
    assert len(set(rounds[0])) == count
    assert set(rounds[0]) == set(rounds[1])
    assert rounds[0] != rounds[1]


def test_an_unreadable_real_image_gives_its_turn_to_the_next(tmp_path: Path, preprocessing: Preprocessing) -> None:
    save_images(tmp_path / "images", per_class=4)
    (tmp_path / "images" / "blob" / "000.png").write_bytes(b"torn")
    source = open_source(run_file(tmp_path / "images", tmp_path).data.train)
    images = RealImages(source, list(source.items()), preprocessing)
    drawn = {images.draw(position, 0)[0].tobytes() for position in range(8)}
    assert len(drawn) == 7


def test_batches_go_on_after_a_resume_as_if_nothing_had_been(
    rundir: RunDirectory,
    contents: tuple[ShardContents, ...],
    splits: dict[str, Split],
    real: RealImages,
    preprocessing: Preprocessing,
) -> None:
    place, share = Place(rank=1, size=2), Share(real=3, counterfactual=5)
    edits = Counterfactuals(rundir, contents, once(contents), splits, place, 0)
    images = TrainingImages(real, edits, preprocessing, 0)
    whole = list(itertools.islice(ahead(images.batches(share, place, 0), 2), 30))
    rest = list(itertools.islice(ahead(images.batches(share, place, 23), 2), 7))
    assert whole[0].pixels.shape == (8, 3, SIZE, SIZE)
    for before, after in zip(whole[23:], rest, strict=True):
        assert np.array_equal(before.pixels, after.pixels)
        assert np.array_equal(before.labels, after.labels)


def test_edits_first_then_real_images_go_on_after_a_resume_in_either_part(
    images: TrainingImages, real: RealImages
) -> None:
    share = Share(real=0, counterfactual=6, until=5, then=Share(real=6, counterfactual=0))
    walks = []
    for first in (0, 3, 7):
        batches = itertools.islice(images.batches(share, ALONE, first), 10 - first)
        walks.append([(batch.num_real, batch.pixels.tobytes()) for batch in batches])
    assert [num_real for num_real, _ in walks[0]] == [0] * 5 + [6] * 5
    assert walks[0][3:] == walks[1]
    assert walks[0][7:] == walks[2]
    replayed = np.concatenate([real.draw(position, 0)[0] for position in range(6)]).tobytes()
    assert walks[0][5][1] == replayed


def test_images_of_a_batch_name_their_groups_and_placebos_stand_for_a_share_of_the_edits(
    run: RunFile, tmp_path: Path, splits: dict[str, Split], preprocessing: Preprocessing
) -> None:
    rundir = committed_run(tmp_path / "run", run, placebos=True)
    contents, groups = inspect(run, rundir), Groups([])
    items = [planned.item for planned in rundir.plan().of_split("train")]
    groups.add_real(groups.of_real(item.class_name, item.attributes) for item in items)
    groups.add_edits(cell for shard in contents for cell in shard.cells)
    found = np.array([groups.number((item.class_name,)) for item in items])
    real = RealImages(open_source(run.data.train), items, preprocessing, found)
    edits = Counterfactuals(rundir, contents, once(contents), splits, ALONE, 0, placebos=0.5, groups=groups)
    share = Share(real=4, counterfactual=12, paired=2)
    batches = [*itertools.islice(TrainingImages(real, edits, preprocessing, 0).batches(share, ALONE, 0), 10)]
    of_class = [groups.number((name,)) for name in CLASSES]
    of_edits = {groups.number((name, f"{kind}: {after}")): name for name, kind, after in once(contents)}
    placebos = 0
    for batch in batches:
        assert [of_class[label] for label in batch.labels[:4]] == batch.groups[:4].tolist()
        for group, label in zip(batch.groups[4:].tolist(), batch.labels[4:].tolist(), strict=True):
            placebos += group == of_class[label]
            assert group == of_class[label] or of_edits[group] == CLASSES[label]
    assert 35 < placebos < 85
    images = {
        preprocessing.pixels(sample.image).tobytes(): sample.role
        for index in rundir.done()
        for sample in rundir.read_shard(index)
    }
    for batch in batches:
        for row in range(4, 16):
            is_placebo = batch.groups[row] in of_class
            assert (images[batch.pixels[row].tobytes()] == "placebo") == is_placebo


@pytest.mark.parametrize("num_threads", [2, 5])
def test_batches_are_the_same_in_any_number_of_threads(
    rundir: RunDirectory,
    contents: tuple[ShardContents, ...],
    splits: dict[str, Split],
    real: RealImages,
    preprocessing: Preprocessing,
    num_threads: int,
) -> None:
    share, walks = Share(real=7, counterfactual=6, paired=2), []
    for count in (1, num_threads):
        edits = Counterfactuals(rundir, contents, once(contents), splits, ALONE, 0)
        images = TrainingImages(real, edits, preprocessing, 0, augmented=True, num_threads=count)
        walks.append(list(itertools.islice(images.batches(share, ALONE, 0), 20)))
    for one, many in zip(*walks, strict=True):
        assert one.pixels.tobytes() == many.pixels.tobytes()
        assert one.labels.tolist() == many.labels.tolist()


@pytest.mark.gpu
def test_batches_for_a_gpu_lie_where_it_copies_them_from(
    edits: Counterfactuals, real: RealImages, preprocessing: Preprocessing
) -> None:
    plain, pinned = (
        next(
            TrainingImages(real, edits, preprocessing, 0, is_pinned=is_pinned).batches(
                Share(real=3, counterfactual=5), ALONE, 0
            )
        )
        for is_pinned in (False, True)
    )
    assert torch.from_numpy(pinned.pixels).is_pinned()
    assert pinned.pixels.tobytes() == plain.pixels.tobytes()
    found = preprocessing.inputs(pinned.pixels, torch.device("cuda")).cpu()
    torch.testing.assert_close(found, preprocessing.inputs(plain.pixels, torch.device("cpu")))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_order_is_that_of_webdatasets_own_pipeline(
    rundir: RunDirectory, contents: tuple[ShardContents, ...], splits: dict[str, Split], size: int
) -> None:
    import webdataset as wds

    names = [f"shards/{shard.shard:06d}.tar" for shard in contents if shard.train]
    for rank in range(size):
        stream = Counterfactuals(rundir, contents, once(contents), splits, Place(rank=rank, size=size), seed=3)
        mine = names[rank::size] if len(names) >= size else names
        order = random.Random(content_seed(3, "shards/1")).sample(mine, len(mine))
        pipeline = wds.DataPipeline(
            wds.SimpleShardList(order),
            lambda shards: ({"url": each["url"], "stream": open_shard(rundir, each["url"])} for each in shards),
            wds.tariterators.tar_file_expander,
            wds.tariterators.group_by_keys,
            wds.select(lambda record: b'"role":"counterfactual"' in record["json"] and b'"train"' in record["json"]),
            partial(every, rank, size) if len(names) < size else None,
            wds.shuffle(2048, initial=2048, seed=content_seed(3, f"counterfactuals/1/{rank}")),
        )
        found = [(edit.key, edit.label, edit.image()) for edit in stream.round(1)]
        assert found == [(record["__key__"], int(record["cls"]), record["jpg"]) for record in pipeline]


def test_a_shard_that_was_replaced_while_it_was_streamed_is_not_trained_on(folder: Path, run: RunFile) -> None:
    rundir = committed_run(folder / "replaced", run)
    contents, splits = inspect(run, rundir), source_splits(rundir.plan(), run.data.splits, run.seed)
    edit = next(Counterfactuals(rundir, contents, once(contents), splits, ALONE, 0).round(0))
    for index in rundir.done():
        rundir.storage.write(f"shards/{index:06d}.tar", rundir.storage.read(f"shards/{index:06d}.tar"))
    with pytest.raises(ShardError, match="was replaced while it was read"):
        edit.image()


def test_what_is_prepared_ahead_comes_in_order_and_ends_and_fails_where_it_would() -> None:
    assert list(ahead(iter([]), 2)) == []
    assert list(ahead(iter([3, 0, None]), 2)) == [3, 0, None]
    found = ahead((1 // (3 - number) for number in range(9)), 2)
    assert list(itertools.islice(found, 3)) == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_paired_sources_stand_in_one_batch_with_their_edits_and_are_real_images(
    rundir: RunDirectory, images: TrainingImages, preprocessing: Preprocessing
) -> None:
    share = Share(real=5, counterfactual=3, paired=3)
    batch = next(images.batches(share, ALONE, 0))
    assert (len(batch.labels), batch.num_real) == (8, 5)
    assert batch.pairs.tolist() == [[2, 5], [3, 6], [4, 7]]
    sources = {
        preprocessing.pixels(sample.image).tobytes(): sample.key
        for index in rundir.done()
        for sample in rundir.read_shard(index)
        if sample.role == "source"
    }
    edits_of = {
        (preprocessing.pixels(sample.image).tobytes(), sample.source_key)
        for index in rundir.done()
        for sample in rundir.read_shard(index)
        if sample.role == "counterfactual"
    }
    for source, edit in batch.pairs:
        assert batch.labels[source] == batch.labels[edit]
        assert (batch.pixels[edit].tobytes(), sources[batch.pixels[source].tobytes()]) in edits_of


def test_real_images_of_every_kind_are_as_a_shard_holds_them(tmp_path: Path, preprocessing: Preprocessing) -> None:
    save_images(tmp_path / "images", per_class=8)
    shown = sorted((tmp_path / "images" / "blob").iterdir())
    picture = Image.open(shown[0])
    shown[0].unlink()
    for name, image, settings in (
        ("plain.jpg", picture, {}),
        ("progressive.jpg", picture, {"progressive": True}),
        ("grey.jpg", picture.convert("L"), {}),
        ("see-through.png", picture.convert("RGBA").rotate(30), {}),
    ):
        image.save(tmp_path / "images" / "blob" / name, **settings)
    plain = (tmp_path / "images" / "blob" / "plain.jpg").read_bytes()
    (tmp_path / "images" / "blob" / "cut.jpg").write_bytes(plain[:-200])
    (tmp_path / "images" / "blob" / "torn.jpg").write_bytes(plain[:100])
    (tmp_path / "images" / "blob" / "hole.jpg").write_bytes(plain[:-90] + plain[-2:])
    picture.save(tmp_path / "images" / "blob" / "wide.jpg", icc_profile=rgb_profile(ADOBE_RGB, 2.2))
    (tmp_path / "images" / "blob" / "deep.png").write_bytes(png_16(np.asarray(picture, np.uint16) * 16))
    source = open_source(run_file(tmp_path / "images", tmp_path).data.train)
    items = list(source.items())
    images = RealImages(source, items, preprocessing)
    stored = [read_sample(source, item, "train") for item in items]
    assert sum(isinstance(sample, Rejection) for sample in stored) == 3
    for index, sample in enumerate(stored):
        found = images.image(index)
        if isinstance(sample, Rejection):
            assert found is None
        else:
            assert np.array_equal(found, preprocessing.pixels(sample.image))


def test_repeated_images_are_drawn_more_often(real: RealImages) -> None:
    times = np.ones(len(real.items), np.int64)
    times[3] = 5
    images = real.repeated(times)
    round_ = [images.draw(position, 0)[0].tobytes() for position in range(times.sum())]
    counts = Counter(round_)
    pixels = real.image(3)
    assert pixels is not None
    assert counts.pop(pixels.tobytes()) == 5
    assert set(counts.values()) == {1}
    assert len(counts) == len(real.items) - 1


def test_randaugment_changes_real_images_the_same_way_each_time(real: RealImages, preprocessing: Preprocessing) -> None:
    share = Share(real=12, counterfactual=0)
    plain, first, again = (
        next(TrainingImages(real, None, preprocessing, 0, augmented=augmented).batches(share, ALONE, 0))
        for augmented in (False, True, True)
    )
    assert np.array_equal(first.pixels, again.pixels)
    changed = [not np.array_equal(a, b) for a, b in zip(plain.pixels, first.pixels, strict=True)]
    assert 8 <= sum(changed) <= 12
    assert first.pixels.shape == plain.pixels.shape


def test_images_of_different_sizes_are_no_batch(real: RealImages, preprocessing: Preprocessing) -> None:
    real.image = lambda index: np.zeros((3, SIZE + index % 2, 1), np.uint8)  # type: ignore[assignment]
    batches = TrainingImages(real, None, preprocessing, seed=0).batches(Share(real=8, counterfactual=0), ALONE, 0)
    with pytest.raises(ModelError, match=r"images of different sizes, .* set do_resize: true"):
        next(batches)


def test_decoded_images_are_kept_while_there_is_room(preprocessing: Preprocessing, rundir: RunDirectory) -> None:
    image, loads = rundir.read_shard(0)[0].image, []

    def load(index: int) -> bytes:
        loads.append(index)
        return image

    images = DecodedImages(load, preprocessing, limit_bytes=3 * SIZE * SIZE)
    assert np.array_equal(images(0), images(1))
    images(0)
    images(1)
    assert loads == [0, 1, 1]


@pytest.mark.parametrize("save", [save_resnet, save_vit])
def test_pixels_and_inputs_are_what_the_processor_gives(
    tmp_path: Path, save: Callable[[Path], Path], rundir: RunDirectory
) -> None:
    model = ModelConfig(name=str(save(tmp_path / "model")))
    processor = load_image_processor(resolve_model(model, offline=True))
    split = Preprocessing(processor)
    sample = rundir.read_shard(0)[0].image
    pixels = split.pixels(sample)
    assert pixels.dtype == np.uint8
    whole = processor(images=decode_rgb(sample), return_tensors="pt")["pixel_values"]
    assert torch.allclose(split.inputs(pixels[None], torch.device("cpu")), whole, atol=1e-5)


def test_the_head_is_cut_to_the_run_s_classes_in_the_run_s_order(tmp_path: Path) -> None:
    save_resnet(tmp_path / "model", classes=("cat", "stripe", "dog", "Blob"))
    config = ModelConfig(name=str(tmp_path / "model"))
    from transformers import AutoModelForImageClassification

    whole = AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    cut = BaseClassifier(config, CLASSES, offline=True).model().eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.allclose(cut(images).logits, whole(images).logits[:, [3, 1]], atol=1e-6)
    with pytest.raises(ModelError, match="does not know 'horse'"):
        BaseClassifier(config, ("cat", "horse"), offline=True)


def test_a_saved_model_loads_and_answers_the_same(folder: Path, tmp_path: Path) -> None:
    patient = BaseClassifier(ModelConfig(name=str(folder / "patient")), CLASSES, offline=True)
    trained = patient.model().eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.01
    weights = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    storage = Storage(str(tmp_path))
    for _ in range(2):
        patient.save(weights, storage, "models/reinforced")
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    place = tmp_path / "models" / "reinforced"
    assert (place / "model.safetensors").is_file()
    loaded = AutoModelForImageClassification.from_pretrained(place).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, trained(images).logits)
    assert loaded.config.id2label == dict(enumerate(CLASSES))
    assert AutoImageProcessor.from_pretrained(place, backend="pil").size == patient.preprocessing.processor.size


def test_batch_norm_keeps_float32_statistics_under_bfloat16() -> None:
    torch.manual_seed(0)
    exact = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    half = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    half.load_state_dict(exact.state_dict())
    for parameter in half.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    prepare_precision(half, "bfloat16")
    images = torch.randn(8, 3, 8, 8)
    expected, found = exact(images), half(images.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected, atol=0.1)
    assert half[1].running_var.dtype == torch.float32
    assert torch.allclose(half[1].running_var, exact[1].running_var, rtol=0.02)
    assert int(half[1].num_batches_tracked) == 1


def test_frozen_batch_norm_does_not_move() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3)).train()
    freeze_batch_norm(model)
    model(torch.randn(4, 3, 2, 2) + 5)
    assert torch.equal(model[0].running_mean, torch.zeros(3))


@pytest.mark.parametrize("save", [save_resnet, save_vit])
def test_adapters_start_as_the_patient_and_merge_into_what_they_have_become(
    save: Callable[[Path], Path], tmp_path: Path
) -> None:
    patient = BaseClassifier(ModelConfig(name=str(save(tmp_path))), CLASSES, offline=True)
    settings, images = LoraSettings(rank=2), torch.rand(3, 3, SIZE, SIZE)
    model, plain = adapted(patient, settings).eval(), patient.model().eval()
    with torch.no_grad():
        assert torch.equal(model(pixel_values=images).logits, plain(images).logits)
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        for parameter in trained.values():
            parameter += 0.1
        assert {name.split(".")[-3][:5] for name in trained if "lora" in name} == {"lora_"}
        assert len([name for name in trained if "lora" not in name]) == 2
        weights = merged(model.state_dict(), patient, settings)
        plain.load_state_dict(weights)
        torch.testing.assert_close(plain(images).logits, model(pixel_values=images).logits)
    assert not torch.allclose(plain(images).logits, patient.model().eval()(images).logits)


def test_interpolated_weights_lie_between_and_counters_are_those_of_the_end() -> None:
    model = torch.nn.BatchNorm1d(2)
    start = {**model.state_dict(), "weight": torch.tensor([0.0, 2.0])}
    end = {**start, "weight": torch.tensor([1.0, 4.0]), "num_batches_tracked": torch.tensor(9)}
    interpolate(model, start, end, 0.25)
    assert model.weight.tolist() == [0.25, 2.5]
    assert int(model.num_batches_tracked) == 9
    assert start["weight"].tolist() == [0.0, 2.0]


def test_only_matrices_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    decayed, rest = parameter_groups(model, 0.1)
    assert [parameter.ndim for parameter in decayed["params"]] == [2]
    assert rest["weight_decay"] == 0
    assert len(rest["params"]) == 3


def test_progress_survives_json_and_keeps_the_first_of_equal_checkpoints() -> None:
    patient, score = Score(real="110", edits="0"), Score(real="111", edits="1")
    gate = Gate(base=patient, config=ReinforceConfig(), real_groups="abc", edit_groups="d")
    rank = partial(gate.rank, arm=PRESETS["reinforced"])
    record = ArmRecord()
    for step in (10, 20):
        entry = Entry(
            step=step, loss=0.5, learning_rate=0.1, images_per_second=9.0, validation_accuracy=score.accuracy,
            validation_edits_accuracy=score.edits_accuracy,
        )  # fmt: skip
        record = record.add(entry, score, rank)
    assert (record.step, record.best_step) == (20, 10)
    worse = Score(real="110", edits="1")
    record = record.add_point(0.25, worse, rank)
    assert (record.best_step, record.best_share) == (10, 1.0)
    assert record.frontier == (Point(share=0.25, validation_accuracy=2 / 3, validation_edits_accuracy=1.0),)
    progress = Progress(base=patient).with_arm("reinforced", record)
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def test_weights_on_the_way_are_kept_where_the_trained_ones_break_the_guard() -> None:
    patient, broken, between = Score(real="11", edits="00"), Score(real="10", edits="11"), Score(real="11", edits="10")
    entry = Entry(
        step=20, loss=0.5, learning_rate=0.1, images_per_second=9.0, validation_accuracy=0.5,
        validation_edits_accuracy=1.0,
    )  # fmt: skip
    for arm, share, best in (("reinforced", 0.5, between), ("oracle", 1.0, broken)):
        gate = Gate(base=patient, config=ReinforceConfig(), real_groups="ab", edit_groups="cd")
        rank = partial(gate.rank, arm=PRESETS[arm])
        record = ArmRecord().add(entry, broken, rank).add_point(0.5, between, rank)
        assert (record.best_step, record.best_share, record.best) == (20, share, best)
