"""Whose code is imported where the current folder is a checkout of another project."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from repository import ROOT, SUPPORT
from tint_runs import contents, make_in_process, tint_run, write_images

from cluster.session.imports import FOLDERS, worker_environment
from engine.runfile.load import dump_run_file

# Names of ours, of a package that we use, and of one of nobody; as DETR, DeiT and MAE have them.
FOREIGN = ("engine.py", "actors/__init__.py", "datasets/__init__.py", "utils.py")


def foreign_project(folder: Path, *more: str) -> Path:
    """Write a project whose modules leave a file beside them when they are imported."""
    for name in (*FOREIGN, *more):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n")
    return folder


def environment(python_path: str | None = None) -> dict[str, str]:
    """Return the environment of a user's shell, without what the tests need."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", FOLDERS)}
    return kept if python_path is None else {**kept, "PYTHONPATH": python_path}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Install a wheel and, editable, a copy of the repository, each in a venv of its own; return their folders bin."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("installed")
    for name in ("engine", "actors", "cluster"):
        left_out = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "copy")
    build = "from setuptools import build_meta as b; b.build_wheel('../wheel'); b.build_editable('../editable')"
    subprocess.run([sys.executable, "-c", build], cwd=folder / "copy", check=True, capture_output=True)
    shutil.rmtree(folder / "copy" / "build")
    found = {}
    for kind in ("wheel", "editable"):
        venv.create(folder / f"{kind}_venv", symlinks=True)
        (packages,) = (folder / f"{kind}_venv" / "lib").glob("python*/site-packages")
        # Path alone: its own .pth files, where this repository may be installed, are not read.
        (packages / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
        (wheel,) = (folder / kind).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
        found[kind] = folder / f"{kind}_venv" / "bin"
        script = found[kind] / "counterforge"
        script.write_text(
            f"#!{found[kind] / 'python'}\nimport sys\nfrom cluster.cli.main import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "start", "python_path", "more"),
    [
        ("wheel", ["counterforge"], None, ["cluster/__init__.py"]),
        ("editable", ["counterforge"], None, ["cluster/__init__.py"]),
        # Both put the current folder in front: that of a module in it could not be called ours.
        ("wheel", ["python", "-m", "cluster.cli.main"], os.pathsep, []),
    ],
)
def test_no_process_of_a_run_imports_from_the_current_folder_what_is_installed(
    installed: dict[str, Path], tmp_path: Path, kind: str, start: list[str], python_path: str | None, more: list[str]
) -> None:
    here, beside = foreign_project(tmp_path / "here", *more), foreign_project(tmp_path / "beside")
    run = tint_run(write_images(tmp_path / "images"))
    (beside / "run.yaml").write_text(dump_run_file(run))
    # The plugin beside the run file, which imports `engine`.
    shutil.copy(SUPPORT / "tiny_stages.py", beside)
    command = [str(installed[kind] / start[0]), *start[1:], "generate", str(beside / "run.yaml"), "--out", "../out"]
    made = subprocess.run(command, cwd=here, env=environment(python_path), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert [path for folder in (here, beside) for path in folder.rglob("*.ran")] == []
    make_in_process(run, tmp_path / "expected", range(4))
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_the_current_folder_comes_last_however_it_got_in_front(tmp_path: Path) -> None:
    here = foreign_project(tmp_path)
    script = (
        "import sys; from cluster.session.imports import own_packages_first; own_packages_first(); "
        "import actors, engine; print(actors.__file__, engine.__file__, sys.path[-1], sep='\\n')"
    )
    expected = [str(ROOT / "actors" / "__init__.py"), str(ROOT / "engine" / "__init__.py"), str(here)]
    for front in ("", ".", str(here)):
        env = environment(os.pathsep.join((front, str(ROOT))))
        found = subprocess.run([sys.executable, "-c", script], cwd=here, env=env, capture_output=True, text=True)
        assert found.stdout.splitlines() == expected, found.stderr
    assert not list(here.rglob("*.ran"))


def test_workers_look_for_the_folders_of_the_user_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, patched, plugins = (tmp_path / name for name in ("here", "patched", "plugins"))
    for folder in (here, patched, plugins):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(here), str(patched)]))
    monkeypatch.setattr(sys, "path", [*sys.path, str(plugins), "", str(tmp_path / "nowhere")])
    found = worker_environment()
    # What the user put there on purpose stays there.
    assert found["PYTHONPATH"].split(os.pathsep) == [str(ROOT), str(patched)]
    assert found[FOLDERS].split(os.pathsep)[-2:] == [str(plugins), str(here)]
    assert os.path.dirname(os.__file__) not in found[FOLDERS].split(os.pathsep)
