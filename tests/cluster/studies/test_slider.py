import numpy as np
import pytest

from actors.models.device import fix_threads
from actors.zoo import MODELS_FOLDER
from actors.zoo.recipes.judge import load_judge
from cluster.studies.proofs import slider
from cluster.studies.proofs.slider import RUN_FILE, SETTINGS, START, Slid, Slides, make_editor
from engine.runfile.load import load_run_file
from engine.wardrobe.scene import BACKGROUNDS


def test_a_step_is_monotone_where_the_probability_does_not_fall() -> None:
    probability = np.array([[0.1, 0.4, 0.395, 0.9], [0.2, 0.1, 0.1, 0.1]])
    slid = Slid(probability=probability, seen=np.array([True, False]))
    assert slid.monotone == (4, 6)
    assert slid.seen_at_most == (1, 2)


def test_the_sources_are_of_classes_that_no_word_was_learned_from() -> None:
    scenes = Slides(load_judge(MODELS_FOLDER / "judge")).scenes
    assert {scene.class_name for scene in scenes} == set(slider.UNSEEN)
    assert not set(slider.UNSEEN) & set(slider.LEARNED_FROM)
    for ground in BACKGROUNDS:
        assert len([scene for scene in scenes if scene.background != ground]) >= slider.NUM_SOURCES


def test_the_judge_sees_what_the_editor_draws_by_its_own_word_and_not_by_the_word_to_start_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fix_threads(1)
    monkeypatch.setattr(slider, "NUM_SOURCES", 6)
    slides, editor = Slides(load_judge(MODELS_FOLDER / "judge")), make_editor(load_run_file(RUN_FILE, SETTINGS), ())
    own, start = slides.of(editor, "grass", None), slides.of(editor, "grass", START)
    assert own.probability.shape == start.probability.shape == (6, 4)
    assert own.seen.mean() > 0.8
    assert start.seen.mean() < 0.5
