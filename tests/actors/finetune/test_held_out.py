"""Held-out phrases: no edit that has one is trained on, and how the classifier does on them is said apart."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from finetune_run import committed_run, run_file, save_images, save_resnet
from pydantic import ValidationError

from actors.finetune.images import RunImages
from actors.finetune.model import BaseClassifier
from actors.finetune.stream import Place
from engine.run.directory import WEAKNESS, RunDirectory
from engine.runfile.arms import PRESETS
from engine.runfile.reinforce import ReinforceConfig
from engine.runfile.run import RunFile
from engine.training.gate import Gate, Score
from engine.training.held_out import is_held_out
from engine.training.settings import resolve_settings

HELD_OUT = ["Navies"]  # "navy", as the ranking of phrases counts it
PHRASES = [f"phrase {number}" for number in range(1000)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    save_images(folder / "images")
    save_resnet(folder / "patient")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFile:
    return run_file(
        folder / "images", folder / "patient", num_steps=2, eval_every=2, held_out_phrases=HELD_OUT,
        arms=["real_only", "random_edits", "reinforced"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def rundir(folder: Path, run: RunFile) -> RunDirectory:
    """A run of which each source has an edit to blue and one to navy."""
    return committed_run(folder / "run", run)


def test_a_share_of_the_phrases_is_held_out_by_kind_and_words() -> None:
    held = {phrase for phrase in PHRASES if is_held_out("background", phrase, 0.2)}
    assert len(held) == pytest.approx(200, abs=40)
    assert held != {phrase for phrase in PHRASES if is_held_out("weather", phrase, 0.2)}
    # More of them are held out, none comes back.
    assert held < {phrase for phrase in PHRASES if is_held_out("background", phrase, 0.4)}
    assert not any(is_held_out("background", phrase, 0.0) for phrase in PHRASES)
    assert all(is_held_out("background", f"  {phrase.upper()} ", 0.2) == (phrase in held) for phrase in PHRASES)


def test_phrases_can_be_named() -> None:
    assert is_held_out("background", "snow", ("Snow", "deep water"))
    assert is_held_out("weather", "deep  waters", ("Snow", "deep water"))
    assert not is_held_out("background", "water", ("Snow", "deep water"))
    with pytest.raises(ValidationError):
        ReinforceConfig(held_out_phrases=1.0)


def test_an_edit_of_several_turns_is_held_out_with_any_of_its_phrases() -> None:
    assert is_held_out("background+colour", "snow + red", ("Snow",))
    assert is_held_out("background+colour", "sand + red", ("red",))
    assert not is_held_out("background+colour", "sand + blue", ("snow", "red"))
    for first, second in itertools.pairwise(PHRASES):
        either = is_held_out("background", first, 0.2) or is_held_out("colour", second, 0.2)
        assert is_held_out("background+colour", f"{first} + {second}", 0.2) == either


@pytest.mark.parametrize("arm", ["random_edits", "reinforced"])
def test_no_draw_has_a_held_out_phrase(run: RunFile, rundir: RunDirectory, arm: str) -> None:
    weak = {"class_name": None, "kind": "background", "after": "navy", "tested_drop": 0.9}
    rundir.write_json(WEAKNESS, {"cells": [weak], "by_kind": []})
    one_arm = run.model_copy(update={"reinforce": run.reinforce.model_copy(update={"arms": {arm: PRESETS[arm]}})})
    settings = resolve_settings(one_arm, rundir, "digest")
    assert {cell[2]: harm for cell, harm in settings.harm.items()} == {"blue": 0.0, "navy": None}
    for size in (1, 2):
        drawn: list[str] = []
        for rank in range(size):
            base = BaseClassifier(settings.model, settings.classes, offline=True)
            images = RunImages(settings, base, Place(rank=rank, size=size))
            stream = images._counterfactuals(PRESETS[arm], settings.config, seed=0)
            records = [edit.key for turn in range(2) for edit in stream.round(turn)]
            assert len(records) == 2 * stream.round_length
            drawn += records
        wanted = {
            sample.key: sample.edit.after
            for index in rundir.done()
            for sample in rundir.read_shard(index)
            if sample.edit is not None and sample.split == "train"
        }
        assert {wanted[key] for key in drawn} == {"blue"}
        assert set(drawn) == {key for key, after in wanted.items() if after == "blue"}


def test_held_out_edits_choose_nothing_and_must_not_get_worse() -> None:
    config = ReinforceConfig(max_accuracy_loss=0.2, held_out_phrases=0.5)
    patient = Score(real="1" * 10, edits="0" * 20, held_out="0011")
    good = Score(real="1" * 10, edits="1" * 20, held_out="0111")
    worse = replace(good, held_out="0001")
    sources = [f"s{number}" for number in range(20)]
    gate = Gate(base=patient, config=config, real_groups=sources[:10], edit_groups=sources)
    assert gate.rank(good, PRESETS["reinforced"]) == gate.rank(worse, PRESETS["reinforced"])
    real_only = replace(patient, held_out="1100")
    decision = gate.decide({"reinforced": good, "real_only": real_only}, 1)
    assert decision.verdict == "ship"
    assert decision.reasons[-1] == (
        "accuracy on the 4 validation edits with phrases that were held out of training 75.0 %, "
        "base classifier 50.0 %, real images only 50.0 %"
    )
    decision = gate.decide({"reinforced": worse}, 1)
    assert decision.verdict == "do not ship"
    assert "held out of training 25.0 %, base classifier 50.0 %" in decision.reasons[0]
    # Said too where something else decides.
    lost = replace(good, real="0" * 10)
    assert "held out of training 75.0 %" in gate.decide({"reinforced": lost}, 1).reasons[-1]
    none = replace(gate, base=replace(patient, held_out="")).decide({"reinforced": replace(good, held_out="")}, 1)
    assert none.verdict == "ship"
    assert "has a held-out phrase: nothing shows" in none.reasons[-1]
