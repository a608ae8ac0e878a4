"""The worlds where edits matter: what is planted, what is measured, and which edits lose their garment."""

import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository import DEMO

from actors.images.codec import decode_rgb
from cluster.phases.pipeline import open_run
from cluster.studies.proofs.worlds import rare, total, two
from cluster.studies.proofs.worlds.noise import NO_GARMENT, is_lost, lose_garments, without_garment
from cluster.studies.proofs.worlds.world import SETTINGS, SPLITS, Size, conflict_accuracy, write_images
from engine.figures.figures import Figure
from engine.plan.splits import split_of
from engine.run.commit import commit_shard
from engine.runfile.data import TableSource, WardrobeSource
from engine.runfile.load import load_run_file
from engine.sample import Edit, Sample, Verdict
from engine.sources import masked, open_source, read_sample
from engine.wardrobe.garments import CLASSES, load_garments
from engine.wardrobe.scene import OWN_BACKGROUND, Scene, make_scene, make_scenes, render


def by_name(figures: Iterable[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


def test_the_images_of_a_world_keep_class_attributes_and_the_split_of_their_garment(tmp_path: Path) -> None:
    scenes = list(make_scenes(load_garments("sources"), "world", 60, correlation=1.0))
    source = open_source(TableSource.model_validate(json.loads(write_images(tmp_path / "train", scenes))))
    items = {item.key.split("-000", 1)[1][:3]: item for item in source.items()}
    assert source.classes == CLASSES
    for scene in scenes:
        item = items[scene.key[-3:]]
        assert item.label == scene.label
        assert item.attributes == {"background": OWN_BACKGROUND[scene.label], "colour": scene.colour}
        assert item.split_key == f"group:garment-{scene.garment}"
        mask = np.asarray(Image.open(io.BytesIO(masked(source).mask(item))))
        assert np.array_equal(mask, render(scene, load_garments("sources"))[1])
    shares = [split_of(item.split_key, SPLITS, seed=5) for item in items.values()]
    assert 0.65 < shares.count("train") / len(shares) < 0.95
    written = (tmp_path / "train" / "images.csv").stat().st_mtime_ns
    write_images(tmp_path / "train", scenes[:3])
    assert (tmp_path / "train" / "images.csv").stat().st_mtime_ns == written


def test_conflict_accuracy_leaves_out_what_stands_on_its_own_background() -> None:
    scenes = list(make_scenes(load_garments("heldout"), "world", 400))
    on_own = np.array([scene.background == OWN_BACKGROUND[scene.label] for scene in scenes])
    assert conflict_accuracy(on_own, scenes) == 0.0
    assert conflict_accuracy(~on_own, scenes) == 1.0


def test_the_figures_of_total_conflict_name_the_arm_without_edits_that_gains_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conflict = {"patient": 0.2, "real_only": 0.22, "randaugment": 0.35, "reinforced": 0.7}
    found = {
        arm: {"conflict_accuracy": value, "worst_group_accuracy": 0.0, "biased_accuracy": 0.9 - value / 100}
        for arm, value in conflict.items()
    }
    monkeypatch.setattr(total, "run_seed", lambda *_: found)
    figures = by_name(total.total_figures(tmp_path, [0, 1], arms=("real_only", "randaugment", "reinforced")))
    assert figures["total.gain.reinforced"].value == pytest.approx(0.5)
    assert figures["total.gain.reinforced"].met
    assert figures["total.gain.real_only"].met
    assert figures["total.gain.randaugment"].met is False
    assert figures["total.gain.largest_without_edits"].value == pytest.approx(0.15)
    assert figures["total.biased_accuracy_lost"].value == pytest.approx(0.005)


def test_the_arms_of_a_rare_weakness_differ_in_guidance_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    size = Size(num_sources=720)
    assert [rare.num_edited(size, share) * 3 / 720 for share in rare.PER_SOURCE.values()] == [1 / 8, 1 / 4, 1 / 2]
    uniform, guided = {"random_edits": 0.5, "reinforced": 0.52}, {"random_edits": 0.53, "reinforced": 0.57}
    accuracies = {
        **{("uniform", arm): value for arm, value in uniform.items()},
        **{("guided", arm): value for arm, value in guided.items()},
    }
    sizes: list[int] = []

    def run_seed(root: Path, seed: int, size: Size, first: str) -> object:
        assert first == "uniform-30"
        sizes.append(size.num_sources)
        shifted = {key: value + seed / 100 for key, value in accuracies.items()}
        return rare.Result(broken=shifted, kept=shifted, images={"uniform": 120, "guided": 120})

    monkeypatch.setattr(rare, "run_seed", run_seed)
    figures = by_name(rare.rare_figures(tmp_path, [0, 1], size, {"1_8": 1 / 8}))
    assert sizes == [30, 30]
    assert figures["rare.ahead.guided.1_8"].value == pytest.approx(0.07)
    assert figures["rare.ahead.guided.1_8.low"].value == pytest.approx(0.07)
    assert figures["rare.ahead.drawing_alone.1_8"].value == pytest.approx(0.02)
    assert figures["rare.ahead.allocation_alone.1_8"].value == pytest.approx(0.03)
    assert figures["rare.generated_images.guided.1_8"].value == figures["rare.generated_images.uniform.1_8"].value


def test_the_runs_of_a_rare_weakness_differ_in_rounds_alone() -> None:
    uniform, guided = (
        load_run_file(DEMO, [*SETTINGS, *rare.SETTINGS, f"rounds={{count: {count}}}"]).model_dump()
        for count in rare.NUM_ROUNDS.values()
    )
    assert (uniform.pop("rounds")["count"], guided.pop("rounds")["count"]) == (1, 2)
    assert uniform == guided
    assert list(uniform["reinforce"]["arms"]) == ["random_edits", "reinforced"]
    assert sum(uniform["stages"]["perturber"]["edits"].values()) == sum(rare.EDITS.values()) == 3
    assert uniform["data"]["splits"]["seed"] == 0


def test_two_shortcuts_are_of_the_same_classes_and_each_is_broken_alone() -> None:
    plants = two.draw_plants(3)
    background, colour = plants
    assert background.tied.keys() == colour.tied.keys()
    assert len(background.tied) == 4
    tested = two.tested_scenes(plants, Size(num_tested=300))
    for kept, in_place, in_colour in zip(tested["kept"], tested["background"], tested["colour"], strict=True):
        assert replace(in_place, background=kept.background) == kept
        assert replace(in_colour, colour=kept.colour) == kept
        if kept.label in background.tied:
            assert kept.background == background.tied[kept.label] != in_place.background
            assert kept.colour == colour.tied[kept.label] != in_colour.colour
        else:
            assert kept.background not in background.tied.values()
            assert in_place.background in background.tied.values()


def test_a_habit_that_gets_worse_by_more_than_its_error_misses_its_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_seed(root: Path, seed: int, *_: object) -> object:
        before = {"background": 0.4, "colour": 0.3, "lighting": 0.02}
        after = {"background": 0.1, "colour": 0.35 + seed / 1000, "lighting": 0.02 + (seed - 1) / 100}
        return {"patient": before, "reinforced": after}

    monkeypatch.setattr(two, "run_seed", run_seed)
    figures = by_name(two.two_figures(tmp_path, [0, 1, 2], arms=("reinforced",)))
    assert figures["two.change.background.reinforced"].value == pytest.approx(-0.3)
    assert figures["two.change.background.reinforced"].met
    assert figures["two.change.colour.reinforced"].met is False
    assert figures["two.change.lighting.reinforced"].met


def test_an_edit_without_its_garment_shows_the_background_alone_or_another_class() -> None:
    data, garments = WardrobeSource(correlation=0.998), load_garments("sources")
    scene = make_scene(garments, "sources", 7, correlation=0.998)
    on_sand = replace(scene, background="sand")
    empty, whole = (
        render(each, chosen)[0] for each, chosen in ((replace(on_sand, garment=0), NO_GARMENT), (on_sand, garments))
    )
    num_empty = 0
    for number in range(20):
        edit = Edit(kind="background", before=scene.background, after="sand", instruction="", caption="")
        sample = edit_of_scene(scene, number, edit)
        lost = without_garment(sample, 7, data)
        assert replace(lost, image=b"") == sample
        pixels = np.asarray(decode_rgb(lost.image), np.float64)
        # A JPEG of quality 95 is within a few of 255; the garment is not.
        assert np.abs(pixels - whole).mean() > 8
        is_empty = bool(np.abs(pixels - empty).mean() < 3)
        num_empty += is_empty
    assert 4 <= num_empty <= 16


def test_an_edit_to_a_value_that_no_composite_has_loses_its_garment_all_the_same() -> None:
    data, scene = (
        WardrobeSource(correlation=0.998),
        make_scene(load_garments("sources"), "sources", 7, correlation=0.998),
    )
    edit = Edit(kind="colour", before=scene.colour, after="weather", instruction="", caption="")
    lost = without_garment(edit_of_scene(scene, 1, edit), 7, data)
    assert decode_rgb(lost.image).size == (64, 64)


def edit_of_scene(scene: Scene, number: int, edit: Edit) -> Sample:
    """Return an accepted edit of a composite, without its picture."""
    return Sample(
        key=f"{scene.key}_cf{number:02d}",
        source_key=scene.key,
        role="counterfactual",
        image=b"",
        label=scene.label,
        class_name=scene.class_name,
        split="train",
        edit=edit,
        verdict=Verdict(accepted=True),
    )


def test_a_share_of_the_edits_loses_its_garment_by_a_hash_of_the_key() -> None:
    keys = [f"sources-99p8-{number:06d}_cf00" for number in range(4000)]
    ten, thirty = ({key for key in keys if is_lost(key, share)} for share in (0.1, 0.3))
    assert ten < thirty
    assert len(ten) / len(keys) == pytest.approx(0.1, abs=0.02)
    assert len(thirty) / len(keys) == pytest.approx(0.3, abs=0.03)
    assert not any(is_lost(key, 0.0) for key in keys)


def test_a_copied_run_has_the_same_shards_but_for_the_edits_without_their_garment(tmp_path: Path) -> None:
    small = ("data.train.count=60", "data.near_duplicates=off", "data.num_sources=4", "data.num_validation_sources=0")
    run = load_run_file(DEMO, [*small, "shards.sources_per_shard=4"])
    assert isinstance(run.data.train, WardrobeSource)
    (whole, plan), (same, _), (lost, _) = (open_run(run, str(tmp_path / name)) for name in ("whole", "same", "lost"))
    samples = []
    for item, split in plan.shard(0):
        source = read_sample(open_source(run.data.train), item, split)
        assert isinstance(source, Sample)
        for number, after in enumerate(("sand", "wood")):
            edit = Edit(kind="background", before="snow", after=after, instruction="", caption="")
            verdict = Verdict(accepted=after == "sand", reasons=() if after == "sand" else ("text",))
            key = f"{item.key}_cf{number:02d}"
            samples.append(replace(source, key=key, role="counterfactual", edit=edit, verdict=verdict))
        samples.append(source)
    commit_shard(whole, 0, [item.key for item, _ in plan.shard(0)], samples, {"editor": 1.5})
    lose_garments(whole, same, 0, run.data.train, 0.0)
    lose_garments(whole, lost, 0, run.data.train, 1.0)
    assert same.marker(0) == whole.marker(0)
    assert lost.marker(0).counts == whole.marker(0).counts
    assert (lost.marker(0).counts.accepted, lost.marker(0).counts.sources) == (4, 4)
    for before, after in zip(whole.read_shard(0), lost.read_shard(0), strict=True):
        assert replace(after, image=b"") == replace(before, image=b"")
        assert (after.image == before.image) is (before.role == "source")
