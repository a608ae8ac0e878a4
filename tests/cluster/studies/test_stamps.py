"""The world of photographed objects: what its pictures are, and that its edits change the ground alone."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.studies.proofs.worlds import stamp_scenes
from cluster.studies.proofs.worlds.stamp_scenes import (
    CLASSES,
    FOLDER,
    GROUNDS,
    OWN_GROUND,
    Composer,
    make_stamp_scene,
    make_stamp_scenes,
    render,
    stamps_of,
)
from cluster.studies.proofs.worlds.stamps import write_table
from engine.errors import SourceError
from engine.runfile.data import TableSource
from engine.sample import Sample
from engine.sources import masked, open_source, read_sample

needs_stamps = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="Debian's package tuxpaint-stamps-default is not installed"
)


def test_without_the_package_the_study_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stamp_scenes, "FOLDER", tmp_path / "gone")
    stamps_of.cache_clear()
    with pytest.raises(SourceError, match=r"gone is missing: .*apt install tuxpaint-stamps-default"):
        make_stamp_scene("sources", 0, None, 0)


@needs_stamps
def test_classes_have_photographs_for_training_and_others_for_the_tests() -> None:
    for name in CLASSES:
        training, heldout = (stamps_of(name, is_held_out=held) for held in (False, True))
        assert not set(training) & set(heldout)
        assert len(training) >= 16
        assert len(heldout) >= 8
        assert not any("cartoon" in path or path.endswith("_mirror.png") for path in (*training, *heldout))


@needs_stamps
def test_grounds_are_tied_to_classes_as_often_as_asked_and_alternate_else() -> None:
    tied = make_stamp_scenes("sources", 2000, 0.97, seed=3)
    assert np.mean([scene.ground == OWN_GROUND[scene.class_name] for scene in tied]) == pytest.approx(0.97, abs=0.015)
    free = Counter((scene.class_name, scene.ground) for scene in make_stamp_scenes("heldout", 400, None, seed=3))
    assert set(free.values()) == {400 // len(CLASSES) // len(GROUNDS)}
    assert tied[7] == make_stamp_scene("sources", 7, 0.97, seed=3) != make_stamp_scene("sources", 7, 0.97, seed=4)


@needs_stamps
def test_another_ground_leaves_every_opaque_pixel_and_changes_the_clear_ones() -> None:
    for scene in make_stamp_scenes("sources", 40, 0.97, seed=1):
        (before, mask), (after, same) = (
            render(scene),
            render(replace(scene, ground="snow" if scene.ground != "snow" else "sky")),
        )
        assert np.array_equal(mask, same)
        assert np.array_equal(before[mask == 255], after[mask == 255])
        assert (before[mask == 0] != after[mask == 0]).any(axis=1).mean() > 0.9
        assert 0.02 < (mask == 255).mean() < 0.8


@needs_stamps
def test_the_composer_edits_the_ground_of_a_source_of_the_table_and_nothing_else(tmp_path: Path) -> None:
    table = write_table(tmp_path, make_stamp_scenes("sources", 10, 0.97, seed=5))
    source = open_source(TableSource(path=str(table), attributes=("ground",)))
    items = list(source.items())
    sources = [sample for item in items if isinstance(sample := read_sample(source, item, "train"), Sample)]
    composer = Composer({"correlation": 0.97, "seed": 5}, "cpu", name="composer", seed=0)
    found = [sample for sample in composer(sources) if isinstance(sample, Sample)]
    assert [sample.role for sample in found[:5]] == ["source", "placebo", *["counterfactual"] * 3]
    for item, first in zip(items, found[::5], strict=True):
        with Image.open(io.BytesIO(masked(source).mask(item))) as image:
            opaque = np.asarray(image) == 255
        assert first.caption.endswith(first.attributes["ground"])
        for edited in (sample for sample in found if sample.source_key == first.key and sample.role != "source"):
            assert edited.edit is not None
            assert (edited.edit.after == first.attributes["ground"]) == (edited.role == "placebo")
            pair = [np.asarray(Image.open(io.BytesIO(each.image)), np.int16) for each in (first, edited)]
            differs = np.abs(pair[0] - pair[1]).max(axis=2)
            # The border of an opaque part differs by what a JPEG makes of the ground beside it.
            assert np.median(differs[opaque]) <= 12
            # Two pieces of snow are hardly different.
            assert edited.role == "placebo" or np.median(differs[~opaque]) > 20
    assert [sample.image for sample in composer(sources)] == [sample.image for sample in found]
