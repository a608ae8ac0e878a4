"""Where an edit moved a classifier's answer: in the corner that it looks at, nowhere if it looks at nothing."""

import base64
import io
import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from report_runs import finished_run
from tiny_runs import picture, tiny_group

from actors.classifier.attribution import attribute_pair
from actors.classifier.classifier import Classifier
from cluster.phases.attribution import _attribute, attribute_pairs, attribute_run
from cluster.phases.classifiers import ClassifierRef
from cluster.phases.pipeline import all_phases
from engine.probe.attribution import GRID, Attribution, attribute, cell_windows, map_at, patched_pictures
from engine.report.page import PAGE, SUMMARY
from engine.report.results import read_digests, read_results
from engine.report.shown import choose_shown, worst_pairs
from engine.report.views.attribution import attribution_path, overlay_uri, read_attributions
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.sample import Sample
from engine.wardrobe.garments import CLASSES as WARDROBE
from engine.wardrobe.garments import Garments, load_garments
from engine.wardrobe.scene import BACKGROUNDS, Scene, make_scenes, render

CLASSES = ("boot", "coat")
# The edit is white and its placebo black: the darker what a box looks at, the more it is a boot.
BOXES = """
import numpy as np

def _answers(shares):
    return [[1 - share, share] for share in shares]

def corner_reader(images):
    return _answers([np.asarray(image, float)[:6, :6].mean() / 255 for image in images])

def blind(images):
    return _answers([0.25 for image in images])

def seam_reader(images):
    pixels = [np.asarray(image, float).mean(axis=2) for image in images]
    return _answers([min(1, np.abs(np.diff(each)).max() / 255) for each in pixels])
"""


@pytest.fixture(autouse=True)
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "attribution_boxes.py").write_text(BOXES)
    monkeypatch.syspath_prepend(tmp_path)


def box(name: str) -> ClassifierRef:
    return ClassifierRef(config=ProbeConfig(callable=f"attribution_boxes:{name}"), classes=CLASSES)


def pair(size: tuple[int, int] = (48, 48), control_size: tuple[int, int] | None = None) -> tuple[Sample, Sample]:
    """Return a white edit of a boot and its black placebo."""
    _, placebo, edit, *_ = tiny_group("a", 0)
    assert isinstance(edit, Sample)
    assert isinstance(placebo, Sample)
    return replace(edit, image=plain(size, 255)), replace(placebo, image=plain(control_size or size, 0))


def plain(size: tuple[int, int], value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def ask(name: str, **sizes: tuple[int, int]) -> Attribution:
    edit, control = pair(**sizes)
    classifier: Classifier = box(name).load()
    return attribute_pair(edit, control, classifier)


def cells_of(found: Attribution) -> NDArray[np.float64]:
    return np.array(found.cells)


def test_a_classifier_that_looks_at_one_corner_gets_all_of_it_in_that_corner() -> None:
    found = ask("corner_reader")
    assert (found.p_control, found.p_edit) == pytest.approx((1, 0))
    cells = cells_of(found)
    # The corner is one cell; windows reach one cell further.
    assert np.unravel_index(cells.argmax(), cells.shape) == (0, 0)
    assert np.allclose(cells[2:], 0)
    assert np.allclose(cells[:, 2:], 0)
    assert (cells[:2, :2] > 0).all()
    # This one is linear in the pixels, so cells act alone and their sum is the whole drop, but for 8-bit rounding.
    assert found.total == pytest.approx(found.drop, abs=0.01)


def test_a_classifier_that_looks_at_nothing_gets_zeros() -> None:
    found = ask("blind")
    assert (found.drop, found.total) == (0, 0)
    assert not cells_of(found).any()


def test_what_a_patch_does_by_its_seam_alone_cancels_out() -> None:
    assert np.abs(cells_of(ask("seam_reader"))).max() < 0.01


def test_a_control_of_another_size_and_a_picture_that_is_not_square_are_compared_all_the_same() -> None:
    found = ask("corner_reader", size=(96, 32), control_size=(48, 48))
    assert found.drop == pytest.approx(1)
    assert found.cells[0][0] == pytest.approx(cells_of(found).max())


def test_windows_add_up_to_one_everywhere_and_never_are_negative() -> None:
    for height, width in ((64, 64), (37, 81), (8, 8), (5, 224)):
        windows = cell_windows(height, width)
        assert windows.shape == (GRID**2, height, width)
        assert np.allclose(windows.sum(axis=0), 1)
        assert windows.min() >= 0


def test_the_map_is_the_mean_of_what_returns_and_what_falls() -> None:
    # Two cells a side: each restored, then each replaced.
    found = attribute([0.2, 0.8, 0.5, 0.2, 0.2, 0.1, 0.4, 0.8, 0.8, 0.9], "a_placebo", 2)
    assert found.cells == pytest.approx(np.array([[0.35, 0.0], [0.0, -0.1]]))
    kept = Attribution.from_json(json.loads(json.dumps(found.to_json())))
    assert kept == replace(found, cells=((0.35, 0.0), (0.0, -0.1)))
    assert found.drop == pytest.approx(0.6)


def test_each_picture_has_one_patch_of_the_other() -> None:
    edit, control = np.full((16, 16, 3), 200, np.uint8), np.full((16, 16, 3), 100, np.uint8)
    pictures = list(patched_pictures(edit, control, 2))
    assert len(pictures) == 2 + 2 * 4
    assert pictures[2][0, 0, 0] < 110 < 190 < pictures[2][-1, -1, 0]
    assert pictures[6][0, 0, 0] > 190 > 110 > pictures[6][-1, -1, 0]


def test_the_overlay_has_one_colour_a_sign_and_nothing_where_there_is_nothing() -> None:
    rows = [[0.0] * GRID for _ in range(GRID)]
    rows[0][0], rows[-1][-1] = 0.4, -0.2
    uri = overlay_uri(rows, 0.4, (300, 150))
    with Image.open(io.BytesIO(decode(uri))) as image:
        pixels = np.asarray(image.convert("RGBA")).astype(int)
    assert pixels.shape[:2] == (32, 64)
    takes, gives, nothing = pixels[0, 0], pixels[-1, -1], pixels[16, 32]
    assert takes[0] > takes[2] > 0
    assert gives[2] > gives[0]
    assert takes[3] == pytest.approx(2 * gives[3], abs=2)
    assert nothing[3] == 0
    assert map_at(rows, 32, 64)[0, 0] > 0.3


def test_the_worst_pairs_of_the_report_are_looked_at_once(tmp_path: Path) -> None:
    rundir, run = finished_run(tmp_path)
    shown = choose_shown(rundir, run, read_digests(read_results(rundir, run)))
    pairs = worst_pairs(shown.rows, 4)
    assert len(pairs) == 4
    assert all(control.role == "placebo" and edit.source_key == control.source_key for edit, control in pairs)
    assert all(edit.key.endswith("_cf00") for edit, _ in pairs)
    ref = box("corner_reader")
    attribute_pairs(ref, rundir, pairs[:2])
    before = read_attributions(rundir, ref.digest())
    assert set(before) == {edit.key for edit, _ in pairs[:2]}
    # A stamp shows that these two are kept and not asked about again.
    content = rundir.read_json(attribution_path(ref.digest()))
    assert isinstance(content, dict)
    content["pairs"][pairs[0][0].key]["p_edit"] = 0.125  # type: ignore[index,call-overload]  # JSON
    rundir.write_json(attribution_path(ref.digest()), content)
    attribute_pairs(ref, rundir, pairs)
    after = read_attributions(rundir, ref.digest())
    assert set(after) == {edit.key for edit, _ in pairs}
    assert after[pairs[0][0].key].p_edit == 0.125


def test_a_run_with_a_black_box_gets_maps_of_its_worst_pairs(tmp_path: Path) -> None:
    rundir, run = finished_run(tmp_path)
    probe = ProbeConfig(callable="attribution_boxes:corner_reader")
    run = run.model_copy(update={"probe": probe, "report": run.report.model_copy(update={"num_attributions": 3})})
    ref = ClassifierRef(config=probe, classes=rundir.info.classes)
    attribute_run(run, rundir, ("patient",))
    assert len(read_attributions(rundir, ref.digest())) == 3
    none = run.model_copy(update={"report": run.report.model_copy(update={"num_attributions": 0})})
    rundir.storage.delete(attribution_path(ref.digest()))
    attribute_run(none, rundir, ("patient",))
    assert read_attributions(rundir, ref.digest()) == {}


def test_the_probe_phase_looks_at_its_worst_pairs_and_the_page_shows_them(tmp_path: Path) -> None:
    rundir, run = finished_run(tmp_path)
    for name in ("evaluation.json", "reinforce.json"):
        rundir.storage.delete(name)
    probe = run.probe.model_copy(update={"model": None, "callable": "attribution_boxes:corner_reader"})
    run = run.model_copy(update={"probe": probe})
    phases = {phase.name: phase for phase in all_phases(run, rundir, rundir.plan())}
    phases["probe"].run()
    phases["report"].run()
    # Only boots are right on black, so only their edits flip.
    summary: Any = rundir.read_json(SUMMARY)
    maps = {
        picture["key"]: picture["attribution"]["patient"]
        for row in summary["pictures"]
        for picture in row["pictures"]
        if picture["attribution"]
    }
    assert len(maps) == 3
    assert all(each["drop"] == pytest.approx(0.94, abs=0.02) for each in maps.values())
    assert rundir.storage.read(PAGE).count(b'class="evidence patient"') == 3


def test_what_is_asked_and_answered_can_travel() -> None:
    edit, control = pair()
    task = pickle.loads(pickle.dumps(partial(_attribute, edit, control)))
    key, found = task([box("corner_reader").load()])
    assert pickle.loads(pickle.dumps((key, found))) == (edit.key, found)


def test_maps_of_another_grid_are_not_shown(tmp_path: Path) -> None:
    rundir, _ = finished_run(tmp_path)
    content = rundir.read_json(attribution_path("d-patient"))
    assert isinstance(content, dict)
    assert read_attributions(rundir, "d-patient")
    rundir.write_json(attribution_path("d-patient"), {**content, "grid": 4})
    assert read_attributions(rundir, "d-patient") == {}


def test_pictures_of_a_run_are_jpeg_and_are_asked_about_as_they_are(tmp_path: Path) -> None:
    _, placebo, edit, *_ = tiny_group("a", 0)
    assert isinstance(edit, Sample)
    assert isinstance(placebo, Sample)
    found = attribute_pair(
        replace(edit, image=picture((250, 250, 250))), replace(placebo, image=picture((9, 9, 9))), box("blind").load()
    )
    assert (found.control, found.drop) == ("a_placebo", 0)


def test_the_planted_weakness_of_the_wardrobe_lies_on_the_background() -> None:
    garments = load_garments("heldout")
    config = ProbeConfig(model=ModelConfig(name="zoo/patient"))
    patient = ClassifierRef(config=config, classes=WARDROBE, offline=True).load()
    shares, free = [], []
    for scene in make_scenes(garments, "heldout", 8, correlation=1.0):
        # True counterfactuals: the pixels of the garment are the same.
        other = next(name for name in BACKGROUNDS[::-1] if name != scene.background)
        edit, control = (composite(each, garments) for each in (replace(scene, background=other), scene))
        mask = render(scene, garments)[1] / 255
        weights = np.abs(map_at(attribute_pair(edit, control, patient).cells, *mask.shape))
        shares.append(np.average(1 - mask, weights=weights))
        free.append(1 - mask.mean())
    assert np.mean(shares) > 0.87
    assert np.mean(shares) > np.mean(free) + 0.1


def composite(scene: Scene, garments: Garments) -> Sample:
    buffer = io.BytesIO()
    Image.fromarray(render(scene, garments)[0]).save(buffer, "PNG")
    return Sample(
        key=scene.key,
        source_key=scene.key,
        role="source",
        image=buffer.getvalue(),
        label=scene.label,
        class_name=scene.class_name,
        split="train",
    )


def decode(uri: str) -> bytes:
    return base64.b64decode(uri.split(",")[1])
