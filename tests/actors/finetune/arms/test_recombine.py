"""Cut and paste: the composition to the pixel, the ground without its object, labels, and the same images each time."""

import random
from pathlib import Path

import numpy as np
import pytest
from finetune_run import save_resnet
from PIL import Image

from actors.finetune.arms.recombine import SHARE, pasted, recombined, without_object
from actors.finetune.batches import RealImages, TrainingImages
from actors.finetune.recombined import RecombinedImages
from actors.finetune.stream import Place
from actors.images.preprocessing import Preprocessing
from actors.models.files import resolve_model
from actors.models.loading import load_image_processor
from engine.errors import SourceError
from engine.runfile.data import FolderSource, TableSource
from engine.runfile.fields import ModelConfig
from engine.sources import open_source
from engine.training.recipe import Share

SIZE, NUM_IMAGES = 16, 24
ALONE = Place(rank=0, size=1)


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, SIZE, SIZE)).copy()


def square(top: int, left: int, edge: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[top : top + edge, left : left + edge] = 255
    return mask


@pytest.fixture(scope="module")
def preprocessing(tmp_path_factory: pytest.TempPathFactory) -> Preprocessing:
    folder = save_resnet(tmp_path_factory.mktemp("model"))
    return Preprocessing(load_image_processor(resolve_model(ModelConfig(name=str(folder)), offline=True)))


@pytest.fixture
def table(tmp_path: Path) -> TableSource:
    """Two classes of squares, of grey 210 and 240, on grounds of a colour of their own; the first has no mask."""
    rows = ["path,label,mask"]
    for index in range(NUM_IMAGES):
        label, mask = index % 2, square(index % 9, index % 7, 4 + index % 3)
        picture = np.where(mask > 0, 210 + 30 * label, flat((5 * index, 0, 100 * label)))
        Image.fromarray(picture.astype(np.uint8).transpose(1, 2, 0)).save(tmp_path / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / f"{index}-mask.png")
        rows.append(f"{index}.png,{'ab'[label]},{f'{index}-mask.png' if index else ''}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    return TableSource(path=str(tmp_path / "data.csv"))


def real_images(config: TableSource | FolderSource, preprocessing: Preprocessing) -> RealImages:
    source = open_source(config)
    return RealImages(source, list(source.items()), preprocessing)


def test_opaque_pixels_are_the_objects_and_all_others_the_grounds() -> None:
    ground, cut = flat((10, 20, 30)), np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    mask = np.array([[255, 0, 128, 127, 191]] * 4, np.uint8)
    whole = pasted(ground, cut, mask, top=2, left=7)
    place = np.s_[:, 2:6, 7:12]
    opacity = np.array([255, 0, 1, 0, 127])
    assert np.array_equal(whole[place], np.rint((ground[place] * (255.0 - opacity) + cut * 1.0 * opacity) / 255))
    assert np.array_equal(whole[place][..., 0], cut[..., 0])
    whole[place] = ground[place]
    assert np.array_equal(whole, ground)


def test_a_ground_is_filled_from_around_its_object_and_stays_elsewhere() -> None:
    mask = square(4, 5, 6)
    plain = np.where(mask > 0, 255, flat((90, 60, 30))).astype(np.uint8)
    assert np.array_equal(without_object(plain, mask), flat((90, 60, 30)))
    slope = np.broadcast_to(np.arange(SIZE, dtype=np.uint8) * 10, (3, SIZE, SIZE))
    filled = without_object(np.where(mask > 0, 255, slope).astype(np.uint8), mask).astype(int)
    near = square(3, 4, 8) > 0
    assert np.array_equal(filled[:, ~near], slope[:, ~near])
    assert np.abs(filled - slope).max() <= 30
    assert (np.diff(filled[0, 8]) >= 0).all()


def test_the_object_moves_whole_with_about_the_size_of_the_two_objects() -> None:
    pixels = np.where(square(1, 2, 6) > 0, 200, flat((0, 0, 0))).astype(np.uint8)
    ground = np.where(square(6, 6, 8) > 0, 77, flat((0, 50, 0))).astype(np.uint8)
    places = set()
    for seed in range(200):
        found = recombined(pixels, square(1, 2, 6), ground, square(6, 6, 8), random.Random(seed))
        is_object = found[0] > 100
        assert np.array_equal(found[:, ~is_object], flat((0, 50, 0))[:, ~is_object])
        assert set(np.unique(found[0])) == {0, 200}
        # 0.7 times 36 pixels to 1.3 times 64.
        assert 5**2 <= is_object.sum() <= 9**2
        places.add(tuple(np.argwhere(is_object)[0]))
    assert len(places) > 40


def test_half_of_the_images_are_recombined_under_the_objects_label(
    table: TableSource, preprocessing: Preprocessing
) -> None:
    real = real_images(table, preprocessing)
    images, changed, foreign = RecombinedImages(real, preprocessing), 0, 0
    for position in range(20 * NUM_IMAGES):
        pixels, label, _ = images.draw(position, 7)
        index, whole = real.drawn(position, 7)
        assert label == real.labels[index]
        # The object tells the label and the blue of the ground what it was tied to.
        assert (pixels.max() > 226) == (label == 1)
        if is_changed := not np.array_equal(pixels, whole):
            changed += 1
            foreign += abs(np.median(pixels[2]) - 100 * label) > 50
        assert not (is_changed and index == 0), "an image without a mask stays whole"
    assert changed / (20 * (NUM_IMAGES - 1)) == pytest.approx(SHARE, abs=0.07)
    assert foreign / changed == pytest.approx(0.5, abs=0.1)


def test_a_resumed_arm_goes_on_with_the_images_that_were_next_on_any_number_of_threads(
    table: TableSource, preprocessing: Preprocessing
) -> None:
    share = Share(real=6, counterfactual=0)

    def batches(first: int, threads: int, place: Place = ALONE) -> TrainingImages:
        images = RecombinedImages(real_images(table, preprocessing), preprocessing)
        return TrainingImages(images, None, preprocessing, 3, num_threads=threads).batches(share, place, first)

    whole = [batch.pixels for batch, _ in zip(batches(0, 1), range(4), strict=False)]
    assert np.array_equal(next(batches(3, 4)).pixels, whole[3])
    pair = [next(batches(1, 2, Place(rank=rank, size=2))).pixels for rank in range(2)]
    assert np.array_equal(np.stack(pair), np.stack(whole[2:]))


def test_a_source_without_masks_is_refused_with_the_remedy(
    tmp_path: Path, table: TableSource, preprocessing: Preprocessing
) -> None:
    for name in "ab":
        (tmp_path / "folder" / name).mkdir(parents=True)
        Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "folder" / name / "1.png")
    with pytest.raises(SourceError, match=r"give a table with the column `mask`.*a folder without.*leave the arm out"):
        RecombinedImages(real_images(FolderSource(path=str(tmp_path / "folder")), preprocessing), preprocessing)
