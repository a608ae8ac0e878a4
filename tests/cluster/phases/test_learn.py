"""Learning a word from a run: which edits are learned from, what is refused, and what the folder has."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_pipelines import save_stable_diffusion
from tiny_runs import CLASSES, picture, tiny_group, tiny_run

from actors.editor.learning.adapters import read_adapter
from actors.editor.learning.card import FILE as CARD
from actors.editor.learning.card import read_card
from actors.editor.learning.denoising import DenoisingLoss
from actors.editor.learning.learned_file import FILE
from cluster.cli.main import main
from cluster.phases.learn import LearnRequest, choose_editor, choose_pairs, learn_run
from cluster.preflight.models import check_stage_models
from engine.errors import ModelError, RunDirectoryError, RunFileError, SelectionError
from engine.plan.plan import Plan, make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.editor import AdapterConfig, EditorConfig
from engine.runfile.fields import ModelConfig, Placement
from engine.runfile.load import dump_run_file, load_run_file
from engine.runfile.run import RunFile
from engine.sample import Rejection, Sample

REQUEST = LearnRequest(after="snow", num_steps=4, num_vectors=2)
PER_CLASS = 6


def samples_of(plan: Plan, index: int) -> list[Sample | Rejection]:
    """Return each source's group, and of the first source an edit that is mild."""
    found: list[Sample | Rejection] = []
    for place, (item, split) in enumerate(plan.shard(index)):
        group = tiny_group(item.key, item.label)
        for each in group:
            found.append(replace(each, split=split) if isinstance(each, Sample) else each)
        good = found[-3]
        assert isinstance(good, Sample)
        assert good.edit is not None
        if place == 0:
            mild = replace(good, key=f"{item.key}_cf09", edit=replace(good.edit, severity=0.5))
            found.insert(-1, mild)
    return found


@pytest.fixture
def rundir(tmp_path: Path) -> RunDirectory:
    """A run with an accepted edit to snow of each of twelve sources."""
    model = save_stable_diffusion(tmp_path / "model", "instruct")
    run = tiny_run(tmp_path)
    for number, name in enumerate(CLASSES):
        for index in range(3, PER_CLASS):
            (tmp_path / "images" / name / f"{index}.jpg").write_bytes(picture((90 * number, 40 * index, 120)))
    stages = {**run.stages, "editor": EditorConfig(model=ModelConfig(name=str(model)))}
    run = run.model_copy(update={"stages": stages, "offline": True})
    plan = make_plan(run)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    for index in range(plan.num_shards):
        commit_shard(rundir, index, plan.keys(index), samples_of(plan, index), {})
    return rundir


def test_whole_accepted_edits_of_the_chosen_classes_are_learned_from(rundir: RunDirectory) -> None:
    rows = choose_pairs(rundir, REQUEST)
    assert len(rows) == 2 * PER_CLASS
    assert all(row["key"].endswith("_cf00") for row in rows)
    few = choose_pairs(rundir, replace(REQUEST, most_pairs=9))
    assert len(few) == 9
    assert {row["key"] for row in few} < {row["key"] for row in rows}


def test_too_few_edits_are_refused_with_the_values_that_there_are(rundir: RunDirectory) -> None:
    with pytest.raises(SelectionError, match=r"has 0 accepted edits .* 8 are needed; it has snow 12$"):
        choose_pairs(rundir, replace(REQUEST, after="mud"))
    with pytest.raises(SelectionError, match=r"has 6 accepted edits .* in these classes, 8 are needed; it has snow 6$"):
        choose_pairs(rundir, replace(REQUEST, classes=("boot",)))
    with pytest.raises(SelectionError, match="the run has no 'shoe', it has boot, coat"):
        choose_pairs(rundir, replace(REQUEST, classes=("shoe",)))


def test_it_must_be_clear_which_editor_learns(rundir: RunDirectory) -> None:
    run = rundir.run()
    assert choose_editor(run, None)[0] == "editor"
    with pytest.raises(RunFileError, match="no such editor, it has editor"):
        choose_editor(run, "other")
    two = run.model_copy(update={"stages": {**run.stages, "other": run.stages["editor"]}})
    with pytest.raises(RunFileError, match="editors editor, other: say with --stage"):
        choose_editor(two, None)
    with pytest.raises(RunFileError, match="has no editor"):
        choose_editor(run.model_copy(update={"stages": {"captioner": run.stages["captioner"]}}), None)


def test_the_folder_has_word_and_card_and_nothing_is_done_twice(rundir: RunDirectory, tmp_path: Path) -> None:
    card = learn_run(rundir, REQUEST, tmp_path / "snow", Placement())
    assert sorted(path.name for path in (tmp_path / "snow").iterdir()) == [CARD, FILE]
    assert (card.value, card.num_pairs, card.num_steps, card.classes) == ("snow", 12, 4, CLASSES)
    assert read_card(tmp_path / "snow") == card
    assert read_adapter(AdapterConfig(value="snow", path=str(tmp_path / "snow"), digest=card.digest))
    written = (tmp_path / "snow" / FILE).read_bytes()
    assert learn_run(rundir, REQUEST, tmp_path / "snow", Placement()) == card
    again = learn_run(rundir, REQUEST, tmp_path / "again", Placement())
    assert (again.digest, (tmp_path / "again" / FILE).read_bytes()) == (card.digest, written)


def test_a_lora_has_a_card_of_its_own_and_an_interrupted_command_goes_on_to_the_same_bytes(
    rundir: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(REQUEST, kind="lora", rank=2, num_steps=20)
    card = learn_run(rundir, request, tmp_path / "whole", Placement())
    assert (card.kind, card.rank, card.num_vectors, card.num_pairs, card.start) == ("lora", 2, None, 12, "snow")
    assert read_card(tmp_path / "whole") == card
    assert "# A learned LoRA: snow" in (tmp_path / "whole" / CARD).read_text()
    assert (
        f"adapters: [{{value: 'snow', path: '{tmp_path}/whole', kind: lora, digest: '{card.digest}'}}]"
        in (tmp_path / "whole" / CARD).read_text()
    )
    assert read_adapter(AdapterConfig(value="snow", path=str(tmp_path / "whole"), kind="lora", digest=card.digest))

    def interrupted(turn: DenoisingLoss, name: str, **more: object) -> torch.Tensor:
        if name == "step/7":
            raise KeyboardInterrupt
        return loss(turn, name, **more)

    loss = DenoisingLoss.__call__
    with monkeypatch.context() as patch:
        patch.setattr(DenoisingLoss, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learn_run(rundir, request, tmp_path / "cut", Placement())
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["checkpoint.safetensors"]
    learn_run(rundir, request, tmp_path / "cut", Placement())
    assert (tmp_path / "cut" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    with pytest.raises(RunDirectoryError, match="holds a LoRA that was learned otherwise"):
        learn_run(rundir, REQUEST, tmp_path / "cut", Placement())


def test_a_folder_of_something_else_stays_as_it_is(rundir: RunDirectory, tmp_path: Path) -> None:
    learn_run(rundir, REQUEST, tmp_path / "snow", Placement())
    with pytest.raises(RunDirectoryError, match="learned otherwise"):
        learn_run(rundir, replace(REQUEST, num_steps=5), tmp_path / "snow", Placement())
    with pytest.raises(RunDirectoryError, match="is no folder of a learned word or LoRA"):
        learn_run(rundir, REQUEST, tmp_path, Placement())


def test_the_command_prints_what_a_run_file_needs(
    rundir: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["learn", str(tmp_path / "run"), "--after", "snow", "--as", "token", "--steps", "3", "--vectors", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    digest = read_card(tmp_path / "learned" / "snow").digest
    assert f"adapters: [{{value: 'snow', path: 'learned/snow', digest: '{digest}'}}]" in printed
    assert "from 12 pairs" in printed


def test_the_command_learns_a_lora(
    rundir: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["learn", str(tmp_path / "run"), "--after", "snow", "--as", "lora", "--steps", "2", "--rank", "3"]) == 0
    card = read_card(tmp_path / "learned" / "snow")
    assert (card.kind, card.rank) == ("lora", 3)
    entry = f"{{value: 'snow', path: 'learned/snow', kind: lora, digest: '{card.digest}'}}"
    assert f"adapters: [{entry}]" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "option"), [("token", "--rank"), ("lora", "--vectors")])
def test_an_option_of_the_other_kind_is_refused(
    kind: str, option: str, rundir: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["learn", str(tmp_path / "run"), "--after", "snow", "--as", kind, option, "2"]) == 2
    assert f"{option} is nothing of --as {kind}: leave it out" in capsys.readouterr().err


def with_adapter(run: RunFile, **adapter: str) -> RunFile:
    content = run.model_dump(mode="json")
    content["stages"]["editor"]["adapters"] = [adapter]
    return RunFile.model_validate(content)


def test_a_word_decides_the_plan_by_its_path_and_pinned_digest(rundir: RunDirectory, tmp_path: Path) -> None:
    run = rundir.run()
    (tmp_path / "run.yaml").write_text(dump_run_file(with_adapter(run, value="snow", path="words/snow", digest="aa")))
    loaded = load_run_file(tmp_path / "run.yaml")
    editor = loaded.stages["editor"]
    assert isinstance(editor, EditorConfig)
    assert editor.adapters[0].path == str(tmp_path / "words" / "snow")
    digests = {
        make_plan(each).digest
        for each in (run, loaded, with_adapter(run, value="snow", path="words/snow", digest="bb"))
    }
    assert len(digests) == 3
    assert rundir.info.digest in digests


def test_settings_of_loras_leave_the_plans_of_words_as_they_were(rundir: RunDirectory) -> None:
    adapter = AdapterConfig(value="snow", path="/words/snow")
    assert adapter.changes() == {"value": "snow", "path": "/words/snow"}
    word, lora = ({"value": "snow", "path": "/words/snow", **more} for more in ({}, {"kind": "lora"}))
    assert make_plan(with_adapter(rundir.run(), **word)).digest != make_plan(with_adapter(rundir.run(), **lora)).digest


def test_a_word_that_is_not_there_is_one_line_of_plan(rundir: RunDirectory, tmp_path: Path) -> None:
    run = with_adapter(rundir.run(), value="snow", path=str(tmp_path / "nowhere"))
    lines = [each for each in check_stage_models(run, rundir.plan()) if isinstance(each, ModelError)]
    assert [str(line) for line in lines if "stages.editor.adapters.0: " in str(line) and "has no learned" in str(line)]
