"""What makes a run fail is one line of `plan`, with exit code 2, and `run` refuses it before it creates a directory."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tint_runs import tint_run, write_images

from actors.zoo import MODELS_FOLDER
from cluster.cli.main import main
from cluster.preflight.preflight import Preflight, preflight, refuse_problems
from engine.errors import PreflightError
from engine.plan.plan import make_plan
from engine.run.directory import RunDirectory
from engine.runfile.fields import ModelConfig
from engine.runfile.load import dump_run_file, load_run_file
from engine.runfile.run import RunFile

MASKED = ("probe={model: {name: zoo/patient}}", "reinforce.arms=[recombine]", "reinforce.ships=recombine")
STAGE = "def __init__(self, options, device, *, name, seed): ...\n"
PLUGIN = "stages={{mine: {{kind: plugin, target: {}}}}}"
CAPTIONER = "stages={{captioner: {{kind: captioner, model: {}}}}}"
SIGNAL = "stages={{verifier: {{kind: verifier, signals: {{x: {{kind: diffusion, model: {}}}}}}}}}"
EDITOR = "stages={{editor: {{kind: editor, model: {}}}}}"
SOURCES = {
    "my_good.py": f"import os\nclass Mine:\n    {STAGE}def ask(images): ...\n",
    "my_syntax.py": "class Mine:\n    def f(:\n",
    "my_import.py": f"import json\nfrom no_such_package.deep import what\nclass Mine:\n    {STAGE}",
    "my_call.py": "class Mine:\n    def __init__(self, options): ...\n",
    "my_guarded.py": f"try:\n    import no_such_package\nexcept ImportError:\n    pass\nclass Mine:\n    {STAGE}",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that can be made, in run.yaml, beside code of the user's, models and other data."""
    monkeypatch.setattr("sys.path", sys.path[:])
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    images = write_images(tmp_path / "images", per_class=24, bad=0)
    run = tint_run(images).model_dump()
    run["data"] |= {"splits": {"train": 0.6, "validation": 0.2, "test": 0.2}}
    (tmp_path / "run.yaml").write_text(dump_run_file(RunFile.model_validate(run)))
    for name, text in SOURCES.items():
        (tmp_path / name).write_text(text)
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(images.rglob("*.jpg"))]
    for mask in ("gone", "small", "ones"):
        lines = ["path,label,mask", *(f"{row},{mask}.png" for row in rows)]
        (tmp_path / f"{mask}.csv").write_text("\n".join(lines))
    Image.new("L", (3, 2)).save(tmp_path / "small.png")
    Image.new("L", (32, 24), 1).save(tmp_path / "ones.png")
    shutil.copytree(images / "boot", tmp_path / "one" / "boot")
    shutil.copytree(images, tmp_path / "others")
    write_images(tmp_path / "three", per_class=2, bad=0)
    (tmp_path / "three" / "coat" / "1.jpg").unlink()
    (tmp_path / "others" / "boot").rename(tmp_path / "others" / "hat")
    shutil.copytree(images, tmp_path / "strangers")
    for name in ("boot", "coat"):
        (tmp_path / "strangers" / name).rename(tmp_path / "strangers" / f"a {name}")
    for name, files in {"empty": (), "pickle": ("config.json", "pytorch_model.bin")}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    return tmp_path


def remarks(run: RunFile, out: str | None = None) -> tuple[list[str], list[str]]:
    """Return problems and warnings, without the order of classes that is said of every function."""
    found = preflight(run, make_plan(run), out=out)
    return [*found.problems], [warning for warning in found.warnings if "taken in the order" not in warning]


def overridden(folder: Path, overrides: tuple[str, ...]) -> list[str]:
    return [part for text in overrides for part in ("--set", text.replace("HERE", str(folder)))]


BAD: dict[str, tuple[tuple[str, ...], str, str]] = {
    "model folder": ((CAPTIONER.format("{name: HERE/nowhere}"),), "stages.captioner.model", "check the path"),
    "empty folder": ((CAPTIONER.format("{name: HERE/empty}"),), "stages.captioner.model", "not a saved model"),
    "pickle": ((CAPTIONER.format("{name: HERE/pickle}"),), "stages.captioner.model", "save_pretrained"),
    "zoo": ((CAPTIONER.format("{name: zoo/nothing}"),), "stages.captioner.model", "which has ['captioner'"),
    "not in the cache": (
        (CAPTIONER.format("{name: nobody/nothing}"), "offline=true"),
        "stages.captioner.model",
        "hf download nobody/nothing",
    ),
    "pth": ((CAPTIONER.format("{name: HERE/best.pth}"),), "stages.captioner.model", "is a file of PyTorch"),
    "ckpt": ((EDITOR.format("{name: models/sd15.ckpt}"),), "stages.editor.model", "from_single_file"),
    "no pipeline": ((EDITOR.format("{name: zoo/captioner}"),), "stages.editor.model", "a pipeline of diffusers"),
    "no denoiser": (
        (SIGNAL.format("{name: zoo/captioner}"),),
        "stages.verifier.signals.x.model",
        "no model_index.json",
    ),
    "a pipeline": ((CAPTIONER.format("{name: zoo/editor}"),), "stages.captioner.model", "a model of transformers"),
    "method": (
        ("stages={editor: {kind: editor, model: {name: zoo/editor}, method: img2img}}",),
        "stages.editor.method",
        "use method instruct",
    ),
    "mask model": (
        ("stages={editor: {kind: editor, model: {name: zoo/editor}, method: inpaint, mask_model: {name: /no/such}}}",),
        "stages.editor.mask_model",
        "check the path",
    ),
    "no captioner": ((CAPTIONER.format("{name: zoo/patient}"),), "stages.captioner.model", "a ResNetForImageClass"),
    "no chat": (
        ("stages={perturber: {kind: perturber, model: {name: zoo/captioner}}}",),
        "stages.perturber.model",
        "instruction-tuned",
    ),
    "deleted": (
        (EDITOR.format("{name: runwayml/stable-diffusion-v1-5}"),),
        "stages.editor.model",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "transfer": (("probe.transfer=[{name: zoo/nothing}]",), "probe.transfer.0", "which has"),
    "float16": (
        (CAPTIONER.format("{name: zoo/captioner, dtype: float16}"),),
        "stages.captioner.model.dtype",
        "bfloat16",
    ),
    "xformers": (
        ("stages={editor: {kind: editor, model: {name: zoo/editor}, attention: xformers}}",),
        "stages.editor.attention",
        "needs a GPU",
    ),
    "module": ((PLUGIN.format("nowhere.code:Mine"),), "stages.mine.target", "no module 'nowhere.code'"),
    "class": ((PLUGIN.format("my_good:Other"),), "stages.mine.target", "name one of 'Mine'"),
    "syntax": ((PLUGIN.format("my_syntax:Mine"),), "stages.mine.target", "is not Python"),
    "import": ((PLUGIN.format("my_import:Mine"),), "stages.mine.target", "imports 'no_such_package'"),
    "signature": ((PLUGIN.format("my_call:Mine"),), "stages.mine.target", "write def __init__(self, options, device"),
    "callable": (("probe.callable=my_good:guess",), "probe.callable", "name one of 'ask'"),
    "callable module": (("probe.callable=gone:guess",), "probe.callable", "no module 'gone'"),
    "no test image": (("data.splits={train: 0.6, validation: 0.4, test: 0.0}",), "data.splits.test", "set data.test"),
    "no validation": (
        ("probe={model: {name: zoo/patient}}", "data.splits={train: 0.6, validation: 0.0, test: 0.4}"),
        "data.splits.validation",
        "raise it (it is 0)",
    ),
    "no training image": (
        ("data.splits={train: 0.0001, validation: 0.4999, test: 0.5}",),
        "no source is left to train on",
        "raise data.splits.train",
    ),
    "oracle": (
        (
            "probe={model: {name: zoo/patient}}",
            "data.oracle={kind: folder, path: HERE/strangers}",
            "reinforce.arms=[real_only, oracle]",
        ),
        "data.oracle has no image of the train split",
        "leave the arm oracle out",
    ),
    "no masks": (
        ("probe={model: {name: zoo/patient}}", "reinforce.arms={paste: {augment: recombine}}", "reinforce.ships=paste"),
        "reinforce.arms.paste on data.train",
        "give a table with the column `mask`",
    ),
    "masks gone": (
        (*MASKED, "data.train={kind: table, path: HERE/gone.csv}"),
        "data.train: 48 of 48",
        "correct the paths",
    ),
    "masks of another size": (
        (*MASKED, "data.train={kind: table, path: HERE/small.csv}"),
        "data.train: the mask small.png",
        "has 3 x 2 pixels",
    ),
    "masks of ones": (
        (*MASKED, "data.train={kind: table, path: HERE/ones.csv}"),
        "data.train: the mask ones.png",
        "has no value above 1: the object is white there, 255",
    ),
    "three images": (
        ("data.train={kind: folder, path: HERE/three}",),
        "probe.min_sources is 10, and",
        "add images, raise data.num_sources",
    ),
    "one class": (("data.train={kind: folder, path: HERE/one}",), "data.train", "one class, 'boot'"),
    "other classes": (
        ("data.shifted={kind: folder, path: HERE/others}",),
        "data.shifted",
        "'hat' only in data.shifted",
    ),
    "no images": (("data.train={kind: folder, path: HERE/gone}",), "source folder not found", "correct `path`"),
    "group_by": (("report.group_by=[typo]",), "report.group_by", "'typo'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_input_is_one_line_of_plan_and_run_makes_no_directory(
    folder: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, field, said = BAD[case]
    out = folder / "out"
    arguments = [str(folder / "run.yaml"), "--out", str(out), *overridden(folder, overrides)]
    assert main(["plan", *arguments]) == 2
    printed = capsys.readouterr()
    # Where the plan cannot be made there is nothing but the message.
    lines = printed.out.partition("\nproblems\n")[2].splitlines() or printed.err.splitlines()
    (line,) = [line for line in lines if said in line]
    assert line.strip().removeprefix("counterforge: ").startswith(field)
    assert main(["run", *arguments]) == 2
    assert line.strip().removeprefix("counterforge: ") in capsys.readouterr().err
    assert not out.exists()


def test_a_run_that_can_be_made_has_neither_problems_nor_warnings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", str(folder / "run.yaml"), "--out", str(folder / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "problems" not in printed
    (warning,) = printed.partition("\nwarnings\n")[2].splitlines()
    assert "taken in the order" in warning
    guarded = "stages={mine: {kind: plugin, target: my_guarded:Mine}, join: {kind: plugin, target: my_good:Mine}}"
    assert main([*arguments, "--set", guarded, "--set", "probe.callable=my_good:ask"]) == 0


def test_the_demo_has_neither_problems_nor_warnings() -> None:
    run = load_run_file(MODELS_FOLDER.parents[2] / "configs" / "wardrobe.yaml")
    found = preflight(run, make_plan(run))
    assert (found.problems, found.warnings) == ([], [])
    assert list(found.lines()) == []


@pytest.mark.parametrize(
    ("path", "said"),
    [("one", "expected a run file"), ("images.csv", "`data: {train: {kind: table, path: images.csv}}`")],
)
def test_data_in_the_place_of_a_run_file_is_said(
    folder: Path, path: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "images.csv").write_text("path,label\na.jpg,boot\n")
    assert main(["plan", str(folder / path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_run_directory_in_the_place_of_a_run_file_names_its_run_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run.json").write_text("{}")
    assert main(["plan", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"its run file is {folder}/run.yaml" in line


def test_problems_are_broken_at_the_width_of_a_terminal() -> None:
    text = "data.train: " + "one word after another " * 8
    found = Preflight(problems=[text.strip()], warnings=[])
    assert list(found.lines()) == ["", "problems", f"  {text.strip()}"]
    *_, wrapped = found.lines(80)
    first, *others = wrapped.splitlines()
    assert first.startswith("  data.train: one")
    assert all(line.startswith("    ") for line in others)
    assert max(map(len, wrapped.splitlines())) <= 80
    assert wrapped.split() == text.split()


def test_several_problems_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = (
        "report.group_by=[typo]",
        "probe.callable=gone:guess",
        "data.splits={train: 0.6, validation: 0.4, test: 0.0}",
    )
    assert main(["run", str(folder / "run.yaml"), "--out", str(folder / "out"), *overridden(folder, overrides)]) == 2
    title, first, second, third = capsys.readouterr().err.splitlines()[-4:]
    assert title == "counterforge: 3 problems, nothing was started:"
    assert first.startswith("  probe.callable: gone:guess: no module 'gone'")
    assert second.startswith("  data.splits.test: there is no test image")
    assert third == "  report.group_by asks for ['typo'], the images of data.train have none: leave it out"
    assert not (folder / "out").exists()


def test_each_phase_has_its_own_problems(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images", per_class=4))
    plan = make_plan(run)
    few, none = preflight(run, plan).problems
    assert "8 sources get edits" in few
    assert "no test image" in none
    with pytest.raises(PreflightError, match="no test image"):
        refuse_problems(run, plan, ("generate", "probe", "reinforce"))
    with pytest.raises(PreflightError, match="8 sources get edits"):
        refuse_problems(run, plan, ("probe",))
    refuse_problems(run, plan, ("generate",))


def test_gpus_that_are_not_here_are_one_line_for_all_stages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    placement = "{num_gpus: 64}"
    overrides = [
        part for name in ("stages.tint", "stages.judge", "probe") for part in ("--set", f"{name}.placement={placement}")
    ]
    arguments = [str(folder / "run.yaml"), "--out", str(out), *overrides]
    assert main(["plan", *arguments]) == 0
    warnings = capsys.readouterr().out.partition("\nwarnings\n")[2].splitlines()
    (line,) = [line for line in warnings if "GPUs" in line]
    assert line.strip().startswith(
        "if the run is made on this machine: stages.tint asks for 64 GPUs, stages.judge asks"
    )
    assert "probe asks for 64 GPUs" in line
    assert main(["run", *arguments]) == 2
    (said,) = capsys.readouterr().err.splitlines()[-1:]
    assert said.startswith("counterforge: stages.tint asks for 64 GPUs, stages.judge asks for 64 GPUs, probe asks")
    assert not out.exists()
    run = load_run_file(folder / "run.yaml", overrides[1::2])
    assert preflight(run, make_plan(run), is_here=False).problems == []


def test_a_run_directory_must_be_possible(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_file = str(folder / "run.yaml")
    assert main(["plan", run_file, "--out", f"{run_file}/out"]) == 2
    assert f"{run_file} is a file: name a folder of yours" in capsys.readouterr().out
    assert main(["plan", run_file, "--out", str(folder / "images" / "boot")]) == 2
    assert "is not a run directory: choose a new or empty folder with --out" in capsys.readouterr().out
    RunDirectory.create(str(folder / "out"), run := load_run_file(run_file), make_plan(run))
    assert main(["plan", run_file, "--out", str(folder / "out")]) == 0
    assert main(["plan", run_file, "--out", str(folder / "out"), "--set", "seed=3"]) == 2
    assert "belongs to another plan" in capsys.readouterr().out


def test_a_full_disk_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run_file(folder / "run.yaml")
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    _, (warning,) = remarks(run, str(folder / "out"))
    assert "has 1.0 KB free, the images need about" in warning


def break_images(images: Path, count: int) -> None:
    paths = sorted(images.rglob("*.jpg"))[:count]
    for path in paths[: count // 2]:
        path.write_bytes(b"")
    for path in paths[count // 2 :]:
        path.write_bytes(b"no image")


def test_unreadable_images_are_counted_by_reason(folder: Path) -> None:
    break_images(folder / "images", 12)
    run = load_run_file(folder / "run.yaml")
    problems, (warning,) = remarks(run)
    assert problems == []
    assert "data.train: 12 of 48 images (25.0" in warning
    assert "6 empty_file, 6 unreadable_image" in warning
    assert "'boot/0.jpg'" in warning


def test_more_than_half_unreadable_is_a_problem(folder: Path) -> None:
    break_images(folder / "images", 25)
    run = load_run_file(folder / "run.yaml")
    (problem,) = preflight(run, make_plan(run)).problems
    assert "data.train: 25 of 48 images" in problem


@pytest.mark.parametrize("near_duplicates", ["group", "off"])
def test_images_that_a_table_names_and_are_not_there_are_counted(folder: Path, near_duplicates: str) -> None:
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted((folder / "images").rglob("*.jpg"))]
    missing = [f"images/coat/gone-{number}.jpg,coat" for number in range(16)]
    table = folder / "images.csv"
    settings = f"data.train={{kind: table, path: {table}}}", f"data.near_duplicates={near_duplicates}"

    def found(rows: list[str]) -> tuple[list[str], list[str]]:
        table.write_text("\n".join(["path,label", *rows]))
        return remarks(load_run_file(folder / "run.yaml", settings))

    assert found(rows) == ([], [])
    problems, (warning,) = found([*rows, *missing])
    assert problems == []
    assert "data.train: 16 of 64 images (25.0" in warning
    assert "(16 missing_file), such as 'images/coat/gone-0.jpg'" in warning
    (problem,), _ = found([*rows[:4], *rows[-4:], *missing])
    assert "data.train: 16 of 24 images" in problem


def test_what_a_listing_leaves_out_is_a_warning(folder: Path) -> None:
    shutil.copy(folder / "images" / "coat" / "1.jpg", folder / "images" / "stray.jpg")
    run = load_run_file(folder / "run.yaml")
    _, (warning,) = remarks(run)
    assert warning.startswith("data.train: ")
    assert "stray.jpg" in warning


def test_edits_of_far_fewer_pixels_than_the_sources_are_a_warning(folder: Path) -> None:
    from PIL import Image

    for path in (folder / "images").rglob("*.jpg"):
        with Image.open(path) as image:
            image.resize((500, 333)).save(path)
    stages = {name: {"kind": name, "model": {"name": f"zoo/{name}"}} for name in ("captioner", "perturber", "editor")}

    def warnings(size: int | None) -> list[str]:
        stages["editor"]["size"] = size  # type: ignore[assignment]
        return remarks(load_run_file(folder / "run.yaml", [f"stages={json.dumps(stages)}"]))[1]

    (warning,) = warnings(None)
    assert warning.startswith("stages.editor.size: edits have 64 pixels on their longer edge, sources 500 (median of")
    assert warnings(256) == []


def test_a_server_that_does_not_answer_is_a_warning(folder: Path) -> None:
    captioner = "{kind: captioner, model: {name: any/model}, server: {url: 'http://127.0.0.1:9/v1'}}"
    run = load_run_file(folder / "run.yaml", [f"stages={{captioner: {captioner}}}"])
    found = preflight(run, make_plan(run))
    assert found.problems == []
    assert any("stages.captioner.server.url: http://127.0.0.1:9/v1 does not answer" in each for each in found.warnings)


def test_the_hub_is_asked_whether_a_model_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2
    from huggingface_hub import HfApi, errors
    from huggingface_hub.hf_api import ModelInfo

    run = load_run_file(folder / "run.yaml", [CAPTIONER.format("{name: some/model}")])

    def answer(give: Callable[[], ModelInfo]) -> tuple[list[str], list[str]]:
        monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: give())
        return remarks(run)

    def with_files(*names: str) -> Callable[[], ModelInfo]:
        return lambda: ModelInfo(id="some/model", siblings=[{"rfilename": name} for name in names], tags=[])

    def missing() -> ModelInfo:
        raise errors.RepositoryNotFoundError(
            "404", response=httpx2.Response(404, request=httpx2.Request("GET", "http://hub"))
        )

    def away() -> ModelInfo:
        raise httpx2.ConnectTimeout("too late")

    assert answer(with_files("config.json", "model.safetensors")) == ([], [])
    (problem,), _ = answer(with_files("config.json", "pytorch_model.bin"))
    assert "stages.captioner.model: some/model has no weights in safetensors on the hub" in problem
    (problem,), _ = answer(missing)
    assert "stages.captioner.model: some/model is no folder here and not on the hub" in problem
    problems, (warning,) = answer(away)
    assert problems == []
    assert "the hub does not answer (ConnectTimeout)" in warning


def test_deepspeed_settings_are_checked_at_plan_line_by_line(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images"))
    settings = run.reinforce.model_copy(update={"deepspeed": {"gradient_clipping": "auto", "zero_optimization": 2}})
    model = run.probe.model_copy(update={"model": ModelConfig(name="zoo/patient"), "callable": None})
    run = run.model_copy(update={"reinforce": settings, "probe": model})
    found = [line for line in preflight(run, make_plan(run)).problems if "deepspeed" in line]
    assert [line.partition(":")[0] for line in found] == [
        "reinforce.deepspeed",
        "reinforce.deepspeed.zero_optimization is 2",
    ]
    assert "set gradient_clipping (0 for none, or 1.0, which is the Trainer's default)" in found[0]


def test_a_folder_that_ray_cannot_write_in_is_told_at_plan(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(folder / ("long" * 30)))
    run_file = str(folder / "run.yaml")
    assert main(["plan", run_file]) == 0  # a warning: the run may be made on another machine
    said = "bytes, Ray's sockets leave room for 39: set a shorter one, such as RAY_TMPDIR=/tmp"
    assert said in capsys.readouterr().out
    assert main(["run", run_file, "--out", str(folder / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "out").exists()
