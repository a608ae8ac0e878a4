"""The examination of the zoo: its measures do what they say, on pictures whose truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.zoo import MODELS_FOLDER
from actors.zoo.exam.editor import ExamKind, drawn_sheet, edit_of, targets
from actors.zoo.exam.evaluate import main
from actors.zoo.exam.page import exam_page
from actors.zoo.exam.scenes import CAPTION, Exam, kept, kernel_distance, picture
from actors.zoo.exam.verifier import roc_curve
from actors.zoo.exam.words import is_exact
from actors.zoo.recipes.judge import load_judge
from engine.figures.figures import Figure, machine, read_figures, share
from engine.wardrobe.scene import caption


@pytest.fixture(scope="module")
def exam() -> Exam:
    return Exam(load_judge(MODELS_FOLDER / "judge"), 160)


def test_the_judge_sees_what_is_there_and_not_what_is_not(exam: Exam) -> None:
    assert exam.sees["background"].mean() > 0.95
    assert exam.sees["colour"].mean() > 0.9
    assert exam.sees["class"].mean() > 0.7
    images = [sample.image for sample in exam.samples]
    elsewhere = exam.right(images, targets(exam.scenes, "background"))
    assert elsewhere["background"].mean() < 0.05
    assert np.array_equal(elsewhere["class"], exam.sees["class"])


def test_distance_is_zero_for_the_same_picture_and_lies_where_the_change_is(exam: Exam) -> None:
    sources = [sample.image for sample in exam.samples[:40]]
    others = [picture(scene) for scene in targets(exam.scenes[:40], "background")]
    assert exam.distance(sources, sources).max() == 0
    distance, masks = exam.distance(sources, others), exam.masks[:40]
    inside = (distance * masks).sum() / masks.sum()
    outside = (distance * (1 - masks)).sum() / (1 - masks).sum()
    assert outside > 2 * inside


def test_kernel_distance_is_about_zero_for_one_law_and_grows_with_the_shift() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(400, 8)), rng.normal(size=(400, 8))
    near, far = kernel_distance(left, right + 0.3), kernel_distance(left, right + 1)
    assert abs(kernel_distance(left, right)) < 0.05 < near < far


def test_roc_of_a_perfect_score_of_none_and_of_ties() -> None:
    positive = np.array([True, True, False, False])
    false, true = roc_curve(np.array([4.0, 3.0, 2.0, 1.0]), positive)
    assert np.trapezoid(true, false) == 1
    false, true = roc_curve(np.zeros(4), positive)
    assert (false.tolist(), true.tolist()) == ([0, 1], [0, 1])
    false, true = roc_curve(np.array([1.0, 2.0, 3.0, 4.0]), positive)
    assert np.trapezoid(true, false) == 0


@pytest.mark.parametrize("kind", ["background", "colour", "lighting", "garment"])
def test_a_target_differs_in_the_one_thing_that_its_edit_says(exam: Exam, kind: ExamKind) -> None:
    fields = {"background": "background", "colour": "colour", "lighting": "light", "garment": "label"}
    for scene, goal in zip(exam.scenes, targets(exam.scenes, kind), strict=True):
        edit = edit_of(kind, scene, goal)
        assert edit.caption == caption(goal) != caption(scene)
        assert getattr(scene, fields[kind]) != getattr(goal, fields[kind])
        assert CAPTION.fullmatch(edit.caption)
        kept_fields = [field for field in ("colour", "background", "light", "left", "size") if field != fields[kind]]
        assert all(getattr(scene, field) == getattr(goal, field) for field in kept_fields)


def test_an_edit_is_exact_only_where_it_changes_the_attribute_asked_for(exam: Exam) -> None:
    scene = exam.scenes[0]
    (goal,) = targets([scene], "background")
    edit = edit_of("background", scene, goal)
    assert is_exact(scene, edit)
    assert not is_exact(scene, replace(edit, after="the moon"))
    assert not is_exact(scene, replace(edit, caption=caption(replace(goal, colour="pink"))))
    assert not is_exact(goal, edit)


def test_what_is_kept_is_a_share_of_the_ceiling() -> None:
    before = np.array([True] * 80 + [False] * 20)
    after = np.array([True] * 60 + [False] * 40)
    figure = kept("x", after, before, 0.7)
    assert figure.value == pytest.approx(0.75)
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < 0.75 < figure.high


def test_the_sheet_holds_every_row(exam: Exam) -> None:
    import io

    from PIL import Image

    image = exam.samples[0].image
    sheet = Image.open(io.BytesIO(drawn_sheet([(image, image, image)] * 7, columns=3, edge=32)))
    assert sheet.size == (3 * (3 * 32 + 12), 3 * 36)


def test_the_page_shows_curves_rows_and_every_figure(exam: Exam) -> None:
    figures = [
        *(share(f"editor.curve.garment.steps_{steps}.new_garment", 90 + steps, 100) for steps in (2, 5)),
        *(Figure(name=f"editor.severity.lighting.distance_at_{at:g}", value=at) for at in (0.25, 0.5)),
        share("editor.<b>", 1, 2, 0.9),
    ]
    page = exam_page(
        figures, machine(), [(0.0, 0.0), (0.1, 0.9), (1.0, 1.0)], drawn_sheet([(picture(exam.scenes[0]),) * 3])
    )
    assert page.count('<svg class="chart"') == 3
    assert "data:image/png;base64," in page
    assert "editor.&lt;b&gt;" in page
    assert "<b>" not in page
    bare = exam_page(figures[-1:], machine(), [], None)
    assert '<svg class="chart"' not in bare
    assert "data:image" not in bare


def test_a_run_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate", "--run-file", str(tmp_path / "no.yaml"), "--out", str(tmp_path)])
    assert main() == 1
    assert "no.yaml" in capsys.readouterr().err


def test_the_examination_tells_how_many_scenes_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate", "--scenes", "1"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--scenes 1" in capsys.readouterr().err


def test_the_zoo_is_measured_with_the_stages_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["evaluate", "--scenes", "16", "--out", str(tmp_path), "--threads", "1"]
    parts = ("captioner", "perturber", "editor", "turns", "verifier")
    monkeypatch.setattr("sys.argv", [*command, *(word for part in parts for word in ("--only", part))])
    assert main() == 0
    figures = {figure.name: figure for figure in read_figures("zoo-eval", tmp_path)[0]}
    assert figures["captioner.background"].value > 0.9
    assert figures["perturber.parses"].value > 0.9
    assert figures["editor.background.new_background"].value > 0.8
    assert figures["editor.background.distance_outside"].value > 2 * figures["editor.placebo.distance_outside"].value
    assert figures["editor.turns.both_seen"].value > 0.8
    assert figures["verifier.recall.unchanged_source"].value == 1
    assert (tmp_path / "zoo-eval.html").stat().st_size > 10_000
