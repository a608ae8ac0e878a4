# ruff: noqa: E501  # messages are compared whole, as they are shown
"""The run file: what is read from it, and what is said about a wrong one."""

import json
import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from engine.errors import RunFileError
from engine.runfile.data import FolderSource, TableSource
from engine.runfile.editor import EditorConfig
from engine.runfile.load import describe_changes, dump_run_file, load_run_file, parse_override

GOOD = """\
name: demo
data:
  train: {kind: folder, path: photos}
stages:
  perturber: {kind: perturber, model: {name: zoo/perturber}}
  editor:
    kind: editor
    model: {name: zoo/editor}
probe: {model: {name: ./patient}}
"""


@pytest.fixture
def run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("configs/demo.yaml")
    path.parent.mkdir()
    path.write_text(GOOD)
    return path


def message(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RunFileError) as caught:
        load_run_file(path, overrides)
    return str(caught.value).splitlines()


def editor_of(path: Path, *overrides: str) -> EditorConfig:
    editor = load_run_file(path, overrides).stages["editor"]
    assert isinstance(editor, EditorConfig)
    return editor


def test_a_run_file_is_yaml_1_2(run_file: Path) -> None:
    run_file.write_text(GOOD.replace("name: demo", "name: on") + "reinforce: {learning_rate: 1e-4}\n")
    run = load_run_file(run_file)
    assert run.name == "on"
    assert run.reinforce.learning_rate == 1e-4


def test_every_model_of_a_run_file_is_found(run_file: Path, tmp_path: Path) -> None:
    mask = "method: inpaint\n    mask_model: {name: ./clipseg}\n    "
    run_file.write_text(GOOD.replace("    model: {name: zoo/editor}", f"    {mask}model: {{name: zoo/editor}}"))
    mask_model = editor_of(run_file).mask_model
    assert mask_model is not None
    assert mask_model.name == str(tmp_path / "configs/clipseg")


def test_the_files_of_a_function_are_relative_to_the_run_file(run_file: Path, tmp_path: Path) -> None:
    probe = "probe: {callable: 'mine:ask', files: [model.onnx, /weights], version: 3}"
    run_file.write_text(GOOD.replace("probe: {model: {name: ./patient}}", probe))
    found = load_run_file(run_file).probe
    assert (found.files, found.version) == ((str(tmp_path / "configs/model.onnx"), "/weights"), 3)
    run_file.write_text(GOOD)
    said = message(run_file, "probe.files=[model.onnx]")[0]
    assert "files and version go with probe.callable: a checkpoint is known by its own files" in said


def test_what_changed_is_said_with_both_values(run_file: Path) -> None:
    before = load_run_file(run_file)
    after = load_run_file(run_file, ["stages.editor.batch_size=3", "probe.transfer=[{name: zoo/patient}]"])
    patient = '{"name": "zoo/patient", "revision": null, "dtype": "float32"}'
    assert describe_changes(before, after) == [
        "stages.editor.batch_size: 16 -> 3",
        f"probe.transfer: [] -> [{patient}]",
    ]
    assert describe_changes(before, before) == []


@pytest.mark.parametrize("kind", ["perturber", "editor"])
def test_two_stages_of_one_kind_are_refused(run_file: Path, kind: str) -> None:
    again = f"  again: {{kind: {kind}, model: {{name: zoo/{kind}}}}}\n"
    run_file.write_text(GOOD.replace("probe:", f"{again}probe:"))
    assert f"stages: '{kind}' and 'again' are both of kind {kind}, and a run has one" in message(run_file)[0]


def test_a_kind_of_edit_is_a_known_one_or_explained(run_file: Path) -> None:
    said = message(run_file, "stages.perturber.edits={backgruond: 1}")[0]
    assert "edits.backgruond: no kind has this name, did you mean background?" in said
    own = ["stages.perturber.edits={headwear: 1}", "stages.perturber.kinds={headwear: what the person wears}"]
    assert load_run_file(run_file, own).stages["perturber"].edits == {"headwear": 1}


def test_paths_in_the_file_start_from_its_folder(run_file: Path, tmp_path: Path) -> None:
    text = GOOD.replace("stages:", "  oracle: {kind: folder, path: oracle}\nstages:")
    text = text.replace("{name: ./patient}", "{name: ./patient}, transfer: [{name: ./other}, {name: hub/x}]")
    run_file.write_text(text + "reinforce: {deepspeed: zero2.json}\n")
    run = load_run_file(run_file)
    assert run.data.oracle == FolderSource(path=str(tmp_path / "configs/oracle"))
    assert [model.name for model in run.probe.transfer] == [str(tmp_path / "configs/other"), "hub/x"]
    assert run.data.train == FolderSource(path=str(tmp_path / "configs/photos"))
    assert run.reinforce.deepspeed == str(tmp_path / "configs/zero2.json")
    assert run.probe.model is not None
    assert run.probe.model.name == str(tmp_path / "configs/patient")


def test_paths_in_an_override_start_from_the_current_folder(run_file: Path, tmp_path: Path) -> None:
    overrides = ["data.train={kind: table, path: a.csv, image_folder: ../b}"]
    run = load_run_file(run_file, overrides)
    assert run.data.train == TableSource(path=str(tmp_path / "a.csv"), image_folder=str(tmp_path.parent / "b"))


def test_only_folders_that_exist_are_taken_for_local_models(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "configs/zoo/editor").mkdir(parents=True)
    (tmp_path / "configs/my/editor").mkdir(parents=True)
    assert editor_of(run_file).model.name == "zoo/editor"
    assert editor_of(run_file, "stages.editor.model.name=timbrooks/instruct-pix2pix").model.name.startswith(
        "timbrooks/"
    )
    os.chdir("configs")
    assert editor_of(Path("demo.yaml"), "stages.editor.model.name=my/editor").model.name == str(
        Path.cwd() / "my/editor"
    )


def test_remote_and_home_paths_are_kept(run_file: Path) -> None:
    run = load_run_file(run_file, ["data.train.path=s3://bucket/photos"])
    assert run.data.train == FolderSource(path="s3://bucket/photos")
    assert load_run_file(run_file, ["data.train.path=~/x"]).data.train == FolderSource(path=os.path.expanduser("~/x"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("20", 20), ("1e-4", 1e-4), ("[1, 3]", [1, 3]), ("null", None), ("", None), ("a=b", "a=b"), ("on", "on")],
)
def test_override_values_are_yaml(text: str, value: object) -> None:
    assert parse_override(f"a.b={text}").value == value


def test_an_override_reaches_lists_and_makes_sections(run_file: Path) -> None:
    assert editor_of(run_file, "stages.editor.placement.replicas=[1, 4]").placement.replicas == (1, 4)
    run = load_run_file(run_file, ["groups=[[perturber, editor]]", "groups.0=[editor]", "report.num_rows=3"])
    assert run.groups == (("editor",),)
    assert run.report.num_rows == 3


def test_a_dumped_run_file_loads_as_the_same_run(run_file: Path, tmp_path: Path) -> None:
    run = load_run_file(run_file, ["reinforce.learning_rate=1e-5", 'report.group_by=["on", "1e3", "a: b"]'])
    copy = tmp_path / "elsewhere.yaml"
    copy.write_text(dump_run_file(run))
    assert load_run_file(copy) == run


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("configs/demo.yml", "run file not found: configs/demo.yml; did you mean configs/demo.yaml?"),
        ("configs/other", "run file not found: configs/other; configs/ has demo.yaml"),
        ("nowhere/demo.yaml", "run file not found: nowhere/demo.yaml; there is no folder nowhere"),
        ("configs", "configs is a folder, expected a run file; did you mean configs/demo.yaml?"),
    ],
)
def test_a_missing_run_file_is_named(run_file: Path, name: str, said: str) -> None:
    assert message(Path(name)) == [said]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "configs/demo.yaml is empty; expected a run file with name, data, stages and probe"),
        ("- a\n", "configs/demo.yaml: expected fields such as `name: demo`, got a list"),
        (
            "name: a\n\tdata: b\n",
            "configs/demo.yaml:2:1: not valid YAML: while scanning for the next token found character '\\t'",
        ),
        ("name: a: b\n", "configs/demo.yaml:1:8: not valid YAML: mapping values are not allowed here"),
        (
            "name: a\nname: b\n",
            "configs/demo.yaml:2:1: not valid YAML: while constructing a mapping found duplicate key",
        ),
        ("a: !!python/name:os.system\n", "configs/demo.yaml:1:4: not valid YAML: could not determine a constructor"),
    ],
)
def test_bad_yaml_is_shown_with_its_line(run_file: Path, text: str, said: str) -> None:
    run_file.write_text(text)
    (line,) = message(run_file)
    assert line.startswith(said)


def test_a_run_file_that_is_not_text_is_refused(run_file: Path) -> None:
    run_file.write_bytes(b"name: \xff\xfe")
    assert message(run_file) == ["configs/demo.yaml is not UTF-8 text: invalid start byte at byte 6"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: editor", "kind: editor\n    steps: 3", ["stages.editor.steps: unknown field; did you mean num_inference_steps?"]),
        ("data:", "dta:", ["data: is missing; expected fields that name the labelled images", "dta: unknown field; did you mean data?"]),
        ("kind: folder", "kind: foldr", ["data.train: unknown kind 'foldr'; did you mean folder?"]),
        ("kind: folder, ", "", ["data.train: `kind` is missing; expected one of folder, table, webdataset, huggingface, wardrobe, wardrobe_grounds"]),
        ("{kind: folder, path: photos}", "photos", ["data.train: expected fields with a `kind` (folder, table, webdataset, huggingface, wardrobe, wardrobe_grounds), got 'photos'"]),
        (", path: photos", "", ["data.train.path: is missing; expected a folder of class folders: path/cat/1.jpg, path/dog/a/2.png"]),
        ("kind: editor", "kind: editor\n    num_inference_steps: many", ["stages.editor.num_inference_steps: expected an integer, got 'many'"]),
        ("kind: editor", "kind: editor\n    strength: 2", ["stages.editor.strength: must be less than or equal to 1, got 2"]),
        ("kind: editor", "kind: editor\n    method: img2image", ["stages.editor.method: got 'img2image'; did you mean img2img?"]),
        ("{name: zoo/editor}", "zoo/editor", ["stages.editor.model: expected fields (a mapping), got 'zoo/editor'; did you mean {name: zoo/editor}?"]),
        ("{model: {name: ./patient}}", "", ["probe: expected fields (a mapping), got nothing; fill it or remove the line"]),
        ("{model: {name: ./patient}}", "{}", ["probe: give exactly one of probe.model and probe.callable"]),
        ("name: demo", "name: de mo", ["name: expected a word of letters, digits, _ and -, got 'de mo'"]),
        ("name: demo", "name: demo\nreinforce: {arms: [oracle]}", ["reinforce.arms names oracle: set data.oracle to images without the weakness"]),
        ("name: demo", "name: demo\nreinforce: {deepspeed: 3}", ["reinforce.deepspeed: expected a string or fields (a mapping), got 3"]),
    ],
)  # fmt: skip
def test_each_problem_has_one_line_with_path_and_remedy(run_file: Path, old: str, new: str, said: list[str]) -> None:
    run_file.write_text(GOOD.replace(old, new, 1))
    assert message(run_file) == [f"configs/demo.yaml: {line}" for line in said]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps", "--set steps: expected field=value, such as --set stages.editor.num_inference_steps=20"),
        ("a..b=1", "--set a..b=1: expected field=value, such as --set stages.editor.num_inference_steps=20"),
        ("seed=[1", "--set seed=[1: the value is not YAML: expected ',' or ']', but got '<stream end>'; quote it, such as a.b='\"x: y\"'"),
        ("nme=x", "--set nme=x: unknown field; did you mean name?"),
        ("stages.editor.steps=2", "--set stages.editor.steps=2: unknown field; did you mean num_inference_steps?"),
        ("stages.edtior.size=2", "--set stages.edtior.size=2: there is no stage 'edtior'; the stages are perturber, editor"),
        ("stages.editor.size=big", "--set stages.editor.size=big: expected an integer, got 'big'"),
        ("name.first=x", "--set name.first=x: name is 'demo', which has no fields; set name itself"),
        ("data.splits.train=0.9", "configs/demo.yaml with --set data.splits.train=0.9: data.splits: train + validation + test must be 1, got 1.1"),
    ],
)  # fmt: skip
def test_a_bad_override_is_named(run_file: Path, override: str, said: str) -> None:
    assert message(run_file, override) == [said]


def test_a_run_file_that_is_json_keeps_its_escaped_characters(run_file: Path) -> None:
    tree = {**YAML(typ="safe").load(GOOD), "name": "run"}
    tree["stages"]["perturber"]["kinds"] = {"mood \U0001f600 猫": "how it looks"}
    run_file.write_text(json.dumps(tree))
    perturber = load_run_file(run_file).stages["perturber"]
    assert perturber.model_dump(mode="json")["kinds"].keys() == {"mood \U0001f600 猫"}
    assert (
        parse_override(r'a="\\ud83d\ude00 \uD83D\uDE00 \\\uD83D\uDE00"').value
        == "\\ud83d\ude00 \U0001f600 \\\U0001f600"
    )
