"""The loader of a training: against webdataset with PIL, and against the bare decoder of the same bytes.

The shards hold edits of 512 x 512 pixels, JPEG of quality 95, committed as a run commits them; a model of 224 x 224 is
trained. Ours is what a worker draws its batches from. The other is webdataset's documented pipeline: tars, shuffle,
decoding to PIL, resizing, batches; it too leaves out what is not trained on before it decodes. Bare is the decoder of
ours alone: at the fraction of the size that is needed, of bytes in memory, and nothing is done with the pixels.

All is by core time: ours works in threads, and the cores of a worker are what loading is paid in.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from actors.finetune.batches import BATCHES_AHEAD, Batch, RealImages, TrainingImages
from actors.finetune.stream import Counterfactuals, Place
from actors.images.codec import encode_jpeg
from actors.images.preprocessing import Preprocessing
from actors.models.batching import ahead
from actors.models.device import fix_threads
from engine.figures.figures import Figure
from engine.plan.plan import make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, shard_path
from engine.runfile.run import RunFile
from engine.sample import Edit, Sample, Split, Verdict
from engine.sources import open_source, read_sample
from engine.training.contents import READERS, EditCell, ShardContents, inspect_shard, inspect_shards, source_splits
from engine.training.recipe import Share
from tests.benchmarks.pairs import ratio_figure
from tests.benchmarks.samples import CAPTION, EDITED, EDITOR, PERTURBER, VERIFIER

TEXTURES = Path(__file__).parents[2] / "engine" / "wardrobe" / "textures"
EDGE, QUALITY, TRAINED_EDGE = 512, 95, 224
NUM_SOURCES, EDITS_EACH, NUM_PICTURES = 90, 4, 64
BATCH_SIZE, SHUFFLED = 32, 2048
ALONE = Place(rank=0, size=1)
# What decoding at a fraction may differ by from resizing the whole, in levels of 255.
MEAN_LEVELS, PSNR = 2.5, 36.0
# So long nothing must be worked on before a loader counts as having prepared all that it prepares.
QUIET_S, QUIET_WORK_S = 0.05, 0.002
Rgb = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Hold a run whose shards are done, and what a training knows of it."""

    run: RunFile
    rundir: RunDirectory
    contents: tuple[ShardContents, ...]
    splits: Mapping[str, Split]
    draws: Mapping[EditCell, int]

    def edits(self) -> Counterfactuals:
        """Return what a worker that is alone streams."""
        return Counterfactuals(self.rundir, self.contents, self.draws, self.splits, ALONE, seed=0)


@dataclass(frozen=True, kw_only=True)
class Way:
    """Name a way to get from a picture to what a model takes: with the image processor, and with PIL alone."""

    name: str
    processor: Any
    with_pil: Callable[[Image.Image], Rgb]
    decoded_edge: int


def loader_figures(folder: Path, num_sources: int = NUM_SOURCES) -> Iterator[Figure]:
    """Yield figure 13: in the way of ResNet and ConvNeXt, and in that of ViT, which no fraction of 512 pixels hits."""
    from transformers import ConvNextImageProcessorPil, ViTImageProcessorPil

    fix_threads(1)
    trained = make_run(folder, num_sources)
    to_square = ViTImageProcessorPil(size={"height": TRAINED_EDGE, "width": TRAINED_EDGE})
    cropped = ConvNextImageProcessorPil(size={"shortest_edge": TRAINED_EDGE}, crop_pct=TRAINED_EDGE / 256)
    ways = (
        Way(name="", processor=cropped, with_pil=_resize_and_crop, decoded_edge=256),
        Way(name="_resized", processor=to_square, with_pil=_resize, decoded_edge=TRAINED_EDGE),
    )
    for way in ways:
        yield from _figures(trained, way)
    yield _check_figure(trained)


def _figures(trained: Trained, way: Way) -> Iterator[Figure]:
    preprocessing = Preprocessing(way.processor)
    edits = list(trained.edits().round(0))
    images = [edit.image() for edit in edits]
    pipeline = _webdataset(trained, way)
    _check_equal(trained, preprocessing, pipeline, [edit.key for edit in edits])
    batches = ahead(_batches(trained, preprocessing), BATCHES_AHEAD)
    num_batches = max(1, len(images) // BATCH_SIZE)

    def ours() -> None:
        for _ in range(num_batches):
            next(batches)
        _wait_until_quiet()

    def bare() -> None:
        for image in images:
            simplejpeg.decode_jpeg(image, min_height=way.decoded_edge, min_width=way.decoded_edge)

    def stock() -> None:
        for _ in pipeline():
            pass

    per, clock = (num_batches * BATCH_SIZE, len(images)), time.process_time
    # Once before: what is prepared ahead is paid for here, and from now on each batch pays for one other.
    ours()
    start = clock()
    ours()
    rate = per[0] / (clock() - start)
    yield Figure(name=f"loader.rate{way.name}", value=rate, n=per[0], unit="images/s a core")
    yield ratio_figure(f"loader.times_webdataset{way.name}", ours, stock, 1.6, per=per, clock=clock)
    yield ratio_figure(f"loader.share_of_decode{way.name}", ours, bare, 0.92, per=per, clock=clock)
    batches.close()


def make_run(folder: Path, num_sources: int) -> Trained:
    """Make a run of photographs with edits of them, every shard done."""
    images = folder / "images"
    pictures = [encode_jpeg(picture, QUALITY) for picture in _pictures(NUM_PICTURES)]
    for number in range(num_sources):
        path = images / ("boot", "dress")[number % 2] / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures[number % len(pictures)])
    run = RunFile.model_validate(
        {
            "name": "loader",
            "data": {
                "train": {"kind": "folder", "path": str(images)},
                "splits": {"train": 0.8, "validation": 0.1, "test": 0.1},
                "near_duplicates": "off",
            },
            "shards": {"sources_per_shard": 16},
            "stages": {"editor": {"kind": "plugin", "target": "tests.benchmarks.none:None"}},
            "probe": {"model": {"name": "none"}},
        }
    )
    plan = make_plan(run)
    rundir, source = RunDirectory.create(str(folder / "run"), run, plan), open_source(run.data.train)
    every = itertools.cycle(pictures)
    for index in range(plan.num_shards):
        sources = [read_sample(source, item, split) for item, split in plan.shard(index)]
        samples = [sample for sample in sources if isinstance(sample, Sample)]
        edits = [_edited(sample, place, next(every)) for sample in samples for place in range(-1, EDITS_EACH)]
        commit_shard(rundir, index, plan.keys(index), [*samples, *edits], {})
    splits = source_splits(plan, run.data.splits, run.seed)
    contents = inspect_shards(rundir, run.reinforce, splits)
    draws = dict.fromkeys((cell for shard in contents for cell in shard.cells), 1)
    return Trained(run=run, rundir=rundir, contents=contents, splits=splits, draws=draws)


def _pictures(count: int) -> Iterator[Rgb]:
    """Yield pictures of the photographs that the wardrobe has, turned, with a part of another one in each."""
    chance = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB").resize((EDGE, EDGE)) for path in sorted(TEXTURES.glob("*.jpg"))]
    for number in range(count):
        whole = photographs[number % len(photographs)]
        picture = whole.rotate(float(chance.uniform(0, 360)), Image.Resampling.BICUBIC, expand=False)
        picture = picture.crop((76, 76, EDGE - 76, EDGE - 76)).resize((EDGE, EDGE), Image.Resampling.BICUBIC)
        left, top = (int(place) for place in chance.integers(40, 240, 2))
        other = photographs[int(chance.integers(len(photographs)))]
        picture.paste(other.crop((left, top, left + 200, top + 200)), (left, top))
        yield np.asarray(picture)


def _edited(source: Sample, place: int, image: bytes) -> Sample:
    """Return an accepted edit of a source; number -1 is its placebo."""
    name, caption = ("placebo", CAPTION) if place < 0 else (f"cf{place:02d}", EDITED)
    edit = Edit(
        kind="placebo" if place < 0 else "background", before="grass", after="grass" if place < 0 else f"snow {place}",
        instruction="put it on snow", caption=caption,
    )  # fmt: skip
    names = ("image", "text_source", "text_edit", "directional", "consistency", "contrast")
    return replace(
        source,
        key=f"{source.key}_{name}",
        role="placebo" if place < 0 else "counterfactual",
        image=image,
        caption=CAPTION,
        edit=edit,
        scores={score: 0.1 + number / 7 for number, score in enumerate(names)},
        verdict=Verdict(accepted=True),
        provenance={"source": f"{source.key}.jpg", "perturber": PERTURBER, "editor": EDITOR, "verifier": VERIFIER},
    )


def _batches(trained: Trained, preprocessing: Preprocessing) -> Iterator[Batch]:
    """Return the batches of an arm that replays no real image: those are kept decoded, and cost next to nothing."""
    source = open_source(trained.run.data.train)
    real = RealImages(source, list(source.items()), preprocessing)
    images = TrainingImages(real, trained.edits(), preprocessing, seed=0)
    return images.batches(Share(real=0, counterfactual=BATCH_SIZE), ALONE, 0)


def _webdataset(trained: Trained, way: Way) -> Callable[[], Iterator[tuple[Sequence[str], Rgb, Any]]]:
    import webdataset as wds

    folder = trained.rundir.storage.local_path("")
    urls = [str(folder / shard_path(shard.shard)) for shard in trained.contents]

    def run() -> Iterator[tuple[Sequence[str], Rgb, Any]]:
        return iter(
            wds.WebDataset(urls, shardshuffle=False, seed=0)
            .select(_is_trained_on)
            .shuffle(SHUFFLED, initial=SHUFFLED)
            .decode("pil", only=["jpg", "cls"])
            .to_tuple("__key__", "jpg", "cls")
            .map_tuple(lambda key: key, way.with_pil, lambda label: label)
            .batched(BATCH_SIZE)
        )

    return run


def _is_trained_on(record: dict[str, bytes]) -> bool:
    sample = json.loads(record["json"])
    return bool(sample["role"] == "counterfactual" and sample["split"] == "train")


def _resize_and_crop(picture: Image.Image) -> Rgb:
    width, height = picture.size
    share = 256 / min(width, height)
    resized = picture.resize((int(width * share), int(height * share)), Image.Resampling.BICUBIC)
    left, top = (resized.width - TRAINED_EDGE) // 2, (resized.height - TRAINED_EDGE) // 2
    return np.asarray(resized.crop((left, top, left + TRAINED_EDGE, top + TRAINED_EDGE)))


def _resize(picture: Image.Image) -> Rgb:
    return np.asarray(picture.resize((TRAINED_EDGE, TRAINED_EDGE), Image.Resampling.BILINEAR))


def _check_equal(
    trained: Trained,
    preprocessing: Preprocessing,
    pipeline: Callable[[], Iterator[tuple[Sequence[str], Rgb, Any]]],
    keys: Sequence[str],
) -> None:
    """Refuse to compare loaders that give other images, other labels, or pixels that differ by more than is said."""
    stock = {
        key: (pixels.astype(np.float64), int(label))
        for batch in pipeline()
        for key, pixels, label in zip(*batch, strict=True)
    }
    assert set(stock) == set(keys)
    assert len(stock) == len(keys)
    batches = itertools.islice(_batches(trained, preprocessing), len(keys) // BATCH_SIZE)
    for key, pixels, label in zip(keys, *_rows(batches), strict=False):
        wanted, wanted_label = stock[key]
        difference = np.abs(pixels.transpose(1, 2, 0) - wanted)
        assert label == wanted_label
        assert difference.mean() < MEAN_LEVELS
        assert 10 * np.log10(255**2 / (difference**2).mean()) > PSNR


def _rows(batches: Iterator[Batch]) -> tuple[list[NDArray[Any]], list[int]]:
    every = list(batches)
    return [pixels for batch in every for pixels in batch.pixels], [label for batch in every for label in batch.labels]


def _check_figure(trained: Trained) -> Figure:
    """Return how many times as fast the shards are checked before a training as by reading all of them."""
    indexes = trained.rundir.done() * 8

    def walked() -> tuple[ShardContents, ...]:
        return inspect_shards(trained.rundir, trained.run.reinforce, trained.splits, indexes)

    def whole(index: int) -> ShardContents:
        return inspect_shard(index, trained.rundir.read_shard(index), trained.splits, trained.run.reinforce)

    def read() -> tuple[ShardContents, ...]:
        with ThreadPoolExecutor(READERS) as pool:
            return tuple(pool.map(whole, indexes))

    assert walked() == read()
    return ratio_figure("loader.check_times_whole_read", walked, read)


def _wait_until_quiet() -> None:
    while True:
        before = time.process_time()
        time.sleep(QUIET_S)
        if time.process_time() - before < QUIET_WORK_S:
            return
