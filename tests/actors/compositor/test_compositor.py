from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from tiny_models import jpeg, save_clipseg

from actors.compositor.compositor import Compositor
from actors.images.codec import decode_rgb, encode_jpeg
from actors.models.device import fix_threads
from engine.regions import decode_region, decode_regions
from engine.runfile.data import FolderSource, GroundsSource
from engine.runfile.editor import CompositorConfig
from engine.runfile.fields import ModelConfig
from engine.sample import PLACEBO_INSTRUCTION, Edit, Json, Rejection, Sample
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import Scene, caption, make_scenes, render, render_ground, thing_mask


class TrueMasks:
    """Find things by the ground truth of the wardrobe, since no model of its things ships."""

    provenance: Mapping[str, Json] = {}

    def __init__(self, scenes: Sequence[Scene]) -> None:
        garments = load_garments("sources")
        self._scenes = [(render(scene, garments)[0].astype(int), scene, render(scene, garments)[1]) for scene in scenes]

    def _nearest(self, picture: np.ndarray) -> tuple[Scene, np.ndarray]:
        """Return the scene of a picture, which may be edited, and the mask of its garment."""
        _, scene, mask = min(self._scenes, key=lambda each: float(np.abs(each[0] - picture).mean()))
        return scene, mask

    def __call__(self, pictures: Sequence[np.ndarray], words: Sequence[str]) -> list[torch.Tensor]:
        """Return the garment's mask for its class, the thing's for its name, and for all else nothing."""
        found = []
        for picture, word in zip(pictures, words, strict=True):
            scene, garment = self._nearest(picture)
            thing = thing_mask(scene) * (word == scene.thing)
            found.append(torch.from_numpy((garment if word == scene.class_name else thing) / 255.0).float())
        return found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return list(make_scenes(load_garments("sources"), "composed", 12, has_thing=True))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(name=str(save_clipseg(tmp_path_factory.mktemp("models") / "clipseg")))


Make = Callable[..., Compositor]


@pytest.fixture
def compositor(scenes: list[Scene], segmenter: ModelConfig) -> Make:
    def make(method: str, **changes: object) -> Compositor:
        stage = made(method, segmenter, **changes)
        stage.finder = TrueMasks(scenes)
        return stage

    return make


def made(method: str, segmenter: ModelConfig, **changes: object) -> Compositor:
    settings: dict[str, object] = {"method": method, "mask_model": segmenter, "jpeg_quality": 100, "batch_size": 8}
    if method == "swap":
        settings["grounds"] = GroundsSource(count=64)
    config = CompositorConfig.model_validate(settings | changes)
    return Compositor(config, torch.device("cpu"), name="composed", seed=3, offline=True)


def group(scene: Scene, *edits: Edit) -> list[Sample]:
    source = Sample(
        key=scene.key, source_key=scene.key, role="source", label=scene.label, class_name=scene.class_name,
        image=encode_jpeg(render(scene, load_garments("sources"))[0], 100), split="train", caption=caption(scene),
    )  # fmt: skip
    placebo = Edit(
        kind="placebo", before=caption(scene), after=caption(scene), instruction=PLACEBO_INSTRUCTION,
        caption=caption(scene), strategy="composed",
    )  # fmt: skip
    return [
        source,
        replace(source, key=f"{scene.key}_placebo_composed", role="placebo", image=b"", edit=placebo),
        *(
            replace(source, key=f"{scene.key}_cf{number:02d}", role="counterfactual", image=b"", edit=edit)
            for number, edit in enumerate(edits)
        ),
    ]


def background(scene: Scene, after: str) -> Edit:
    return Edit(
        kind="background", before=scene.background, after=after, instruction=f"change the background to {after}",
        caption=caption(replace(scene, background="sand")), strategy="composed",
    )  # fmt: skip


def removal(scene: Scene) -> Edit:
    return Edit(
        kind="removal", before=scene.thing, after=f"no {scene.thing}", instruction=f"remove the {scene.thing}",
        caption=caption(replace(scene, thing="")), strategy="composed",
    )  # fmt: skip


def pixels(item: Sample | Rejection) -> np.ndarray:
    assert isinstance(item, Sample), item
    return np.asarray(decode_rgb(item.image)).astype(int)


def edited(stage: Compositor, groups: Sequence[list[Sample]]) -> dict[str, Sample | Rejection]:
    return {item.key: item for item in stage([sample for samples in groups for sample in samples])}


def test_a_swap_keeps_the_object_and_changes_its_ground(compositor: Make, scenes: list[Scene]) -> None:
    groups = [
        group(scene, background(scene, "a sandy beach of sand")) for scene in scenes if scene.background != "sand"
    ]
    results = edited(compositor("swap"), groups)
    beaches = np.stack([render_ground("sand", index) for index in range(20)]).reshape(-1, 3)
    kept, distance = [], []
    for scene, (source, _, edit) in zip([each for each in scenes if each.background != "sand"], groups, strict=True):
        before, after = pixels(source), pixels(results[edit.key])
        garment = render(scene, load_garments("sources"))[1] > 250
        kept.append(np.median(np.abs(before - after)[garment]))
        ground = (render(scene, load_garments("sources"))[1] < 5) & (thing_mask(scene) < 5)
        distance.append(np.abs(np.median(after[ground], axis=0) - np.median(beaches, axis=0)).max())
    assert np.median(kept) <= 3
    assert np.median(distance) < 25


def test_the_placebo_of_a_swap_stands_on_its_own_ground_again(compositor: Make, scenes: list[Scene]) -> None:
    groups = [group(scene, background(scene, "snow")) for scene in scenes[:4]]
    results = edited(compositor("swap"), groups)
    for scene, (_, placebo, edit) in zip(scenes, groups, strict=False):
        made, other = results[placebo.key], results[edit.key]
        assert isinstance(made, Sample)
        assert isinstance(other, Sample)
        index = int(str(made.provenance["composed"]["ground"]).removeprefix("ground-"))  # type: ignore[index]
        assert GroundsSource(count=64).count > index
        assert made.edit is not None
        assert made.edit.region
        assert made.image != other.image
        # The grounds take turns: photograph i is of ground i modulo their number.
        from engine.wardrobe.scene import BACKGROUNDS

        assert BACKGROUNDS[index % len(BACKGROUNDS)] == scene.background


def test_a_removal_fills_the_thing_and_nothing_else(compositor: Make, scenes: list[Scene]) -> None:
    groups = [group(scene, removal(scene)) for scene in scenes]
    results = edited(compositor("remove"), groups)
    shares, outside = [], []
    for scene, (source, _, edit) in zip(scenes, groups, strict=True):
        result = results[edit.key]
        before, after = pixels(source), pixels(result)
        assert isinstance(result, Sample)
        assert result.edit is not None
        region = decode_region(result.edit.region)
        thing = thing_mask(scene) > 128
        shares.append((region & thing).sum() / thing.sum())
        outside.append(np.abs(before - after)[~region].max(initial=0))
    assert np.median(shares) >= 0.9
    assert max(outside) <= 12  # of one more JPEG


def test_the_control_of_a_removal_is_a_box_as_large_elsewhere(compositor: Make, scenes: list[Scene]) -> None:
    stage = compositor("remove")
    for scene in scenes[:6]:
        _, placebo, edit = stage(group(scene, removal(scene)))
        assert isinstance(placebo, Sample)
        assert isinstance(edit, Sample)
        assert placebo.edit is not None
        assert edit.edit is not None
        control, region = decode_region(placebo.edit.region), decode_region(edit.edit.region)
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        assert control.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert (control & region).sum() <= 0.2 * region.sum()


def test_a_second_turn_edits_the_picture_of_the_first_and_keeps_the_regions_of_both(
    compositor: Make, scenes: list[Scene]
) -> None:
    stage, changed = compositor("remove"), 0
    for scene in scenes[:4]:
        source, placebo, edit = group(scene, removal(scene))
        assert placebo.edit is not None
        assert edit.edit is not None
        shirt = replace(removal(scene), before=scene.class_name, after=f"no {scene.class_name}")
        batch = [
            source, placebo, replace(placebo, key=f"{placebo.key}_t2", edit=replace(placebo.edit, turn=2)),
            edit, replace(edit, key=f"{edit.key}_t2", edit=edit.edit.then(shirt)),
        ]  # fmt: skip
        _, control, control_again, once, twice = stage(batch)
        before, after = pixels(once), pixels(twice)
        assert isinstance(twice, Sample)
        assert twice.edit is not None
        assert isinstance(once, Sample)
        assert once.edit is not None
        assert twice.edit.kind == "removal+removal"
        first, second = decode_regions(twice.edit.region)
        assert np.array_equal(first, decode_region(once.edit.region))
        assert np.abs(before - after)[~second].max(initial=0) <= 12  # of one more JPEG
        changed += np.abs(before - after)[second].max(initial=0) > 12
        assert isinstance(control, Sample)
        assert isinstance(control_again, Sample)
        assert control.edit is not None
        assert control_again.edit is not None
        # The control of the second turn has another box, as large as the second region, on the picture of the first.
        box, box_again = decode_regions(control_again.edit.region)
        assert np.array_equal(box, decode_region(control.edit.region))
        rows, columns = np.flatnonzero(second.any(1)), np.flatnonzero(second.any(0))
        assert box_again.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert np.abs(pixels(control) - pixels(control_again))[~box_again].max(initial=0) <= 12
    assert changed == 4


def test_a_picture_is_the_same_alone_and_among_others(compositor: Make, scenes: list[Scene]) -> None:
    for method, edit in (("swap", lambda scene: background(scene, "water")), ("remove", removal)):
        stage = compositor(method)
        groups = [group(scene, edit(scene)) for scene in scenes[:5]]
        together = edited(stage, groups)
        for samples in groups:
            for item in stage(samples):
                assert item == together[item.key]


def test_what_cannot_be_made_leaves_with_its_reason(compositor: Make, scenes: list[Scene]) -> None:
    scene = next(each for each in scenes if each.thing != "lamp")
    absent = replace(removal(scene), before="lamp", after="no lamp")
    _, placebo, edit = compositor("remove")(group(scene, absent))
    assert {item.reason for item in (placebo, edit) if isinstance(item, Rejection)} == {"no_region"}
    _, _, odd, mild = compositor("swap")(
        group(scene, background(scene, "the moon"), replace(background(scene, "snow"), severity=0.5))
    )
    assert isinstance(odd, Rejection)
    assert (odd.reason, "'the moon' names no ground; there are grass" in odd.detail) == ("no_ground", True)
    assert isinstance(mild, Rejection)
    assert mild.reason == "no_severity"
    broken = [replace(sample, image=b"no image" * (sample.role == "source")) for sample in group(scene, removal(scene))]
    assert {item.reason for item in compositor("remove")(broken) if isinstance(item, Rejection)} == {"no_source_image"}


def test_edits_of_other_stages_pass_untouched(compositor: Make, scenes: list[Scene]) -> None:
    samples = group(scenes[0], replace(removal(scenes[0]), strategy="editor"))[::2]
    assert list(compositor("remove")(samples)) == samples


def test_a_photograph_that_cannot_be_read_is_named(compositor: Make, scenes: list[Scene], tmp_path: Path) -> None:
    (tmp_path / "sand").mkdir()
    (tmp_path / "sand" / "torn.jpg").write_bytes(jpeg()[:200])
    (tmp_path / "grass").mkdir()
    Image.new("RGB", (40, 90), (0, 200, 0)).save(tmp_path / "grass" / "green.png")
    stage = compositor("swap", grounds=FolderSource(path=str(tmp_path)))
    scene = scenes[0]  # on grass
    _, placebo, edit = stage(group(scene, background(scene, "sand")))
    assert isinstance(edit, Rejection)
    assert edit.reason == "unreadable_ground"
    assert "sand" in edit.detail
    green = pixels(placebo)[..., 1] - pixels(placebo)[..., 0]
    assert np.median(green) > 100  # another shape than the picture's, and it covers it


def test_settings_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="grounds goes with method swap"):
        CompositorConfig(method="remove", mask_model=ModelConfig(name="x"), grounds=GroundsSource())
    with pytest.raises(ValidationError, match="grounds goes with method swap"):
        CompositorConfig(method="swap", mask_model=ModelConfig(name="x"))


def test_a_segmenter_finds_what_is_cut_out(scenes: list[Scene], segmenter: ModelConfig) -> None:
    stage = made("swap", segmenter)
    results = list(stage([sample for scene in scenes[:3] for sample in group(scene, background(scene, "snow"))]))
    assert {item.reason for item in results if isinstance(item, Rejection)} <= {"no_mask"}
    assert dict(stage.finder.provenance)["name"]
