"""The house: which room may import which, how large a room may grow, and how rooms are named."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from repository import ROOT

FLOORS = ("engine", "actors", "cluster")
MODULES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
MAX_FILES = 15
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 50
FORBIDDEN = {
    "engine": {"actors", "cluster", "ray", "torch", "diffusers", "transformers", "deepspeed"},
    "actors": {"cluster", "ray"},
    "cluster": set(),
}
MAY_IMPORT_RAY_TRAIN = ROOT / "actors" / "finetune"
VAGUE_NAMES = {"utils", "helpers", "common", "base", "manager"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield every imported module, `from a import b` as both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def find_circle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the nodes along the first circle, none where there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name not in done:
            for used in sorted(arrows.get(name, ())):
                if circle := visit(used, [*trail, name]):
                    return circle
            done.add(name)
        return []

    return next((circle for name in sorted(arrows) if (circle := visit(name, []))), [])


def test_imports_go_one_way() -> None:
    wrong = []
    for path in MODULES:
        names = set(imported_names(parse(path)))
        if path.is_relative_to(MAY_IMPORT_RAY_TRAIN):
            names = {name for name in names if name != "ray" and not name.startswith("ray.train")}
        roots = {name.split(".")[0] for name in names} & FORBIDDEN[path.relative_to(ROOT).parts[0]]
        wrong += [f"{module_name(path)} imports {root}" for root in sorted(roots)]
    assert not wrong


def test_neither_modules_nor_folders_import_each_other_in_a_circle() -> None:
    names = {module_name(path): path for path in MODULES}
    modules = {name: {used for used in imported_names(parse(path)) if used in names} for name, path in names.items()}
    folders: dict[str, set[str]] = defaultdict(set)
    for name, uses in modules.items():
        here = str(names[name].parent)
        folders[here] |= {str(names[used].parent) for used in uses} - {here}
        uses.discard(name)
    assert not find_circle(modules)
    assert not find_circle(folders)


def test_folders_modules_and_functions_stay_small() -> None:
    files = Counter(
        path.parent
        for floor in FLOORS
        for path in (ROOT / floor).rglob("*")
        if path.is_file() and path.name != "__init__.py" and not {"__pycache__", "models"} & set(path.parts)
    )
    large = [f"{folder.relative_to(ROOT)} has {count} files" for folder, count in files.items() if count > MAX_FILES]
    for path in MODULES:
        if (length := len(path.read_text(encoding="utf-8").splitlines())) > MAX_MODULE_LINES:
            large.append(f"{module_name(path)} has {length} lines")
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    large.append(f"{module_name(path)}.{node.name} has {length} lines")
    assert not large


def test_names_say_what_they_own_and_none_repeats_its_folder() -> None:
    wrong = [path for path in MODULES if path.stem in VAGUE_NAMES]
    wrong += [path for path in MODULES if path.stem.startswith(f"{path.parent.name}_")]
    assert not wrong


def test_no_three_files_of_a_folder_begin_alike() -> None:
    """A prefix that three files share is a folder that was not made."""
    prefixes = Counter((path.parent, path.stem.split("_")[0]) for path in MODULES if "_" in path.stem)
    assert not [f"{folder}/{prefix}_*" for (folder, prefix), count in prefixes.items() if count > 2]


def test_each_folder_has_a_door_that_says_in_one_line_what_lives_there() -> None:
    for folder in {path.parent for path in MODULES}:
        door = folder / "__init__.py"
        assert door.exists() or (folder / "__main__.py").exists(), folder
        docstring = ast.get_docstring(parse(door)) or ""
        assert docstring, door
        assert "\n" not in docstring, door


def test_modules_do_no_work_when_imported() -> None:
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for path in MODULES:
        for node in parse(path).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            entry = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
            assert isinstance(node, definitions) or docstring or typing_only or entry, f"{path}: {ast.unparse(node)}"


def test_tests_lie_where_what_they_test_lies() -> None:
    rooms = {path.parent.relative_to(ROOT) for path in MODULES} | {Path("house"), Path("benchmarks")}
    stray = [path for path in TESTS if path.parent.relative_to(ROOT / "tests") not in rooms]
    assert not stray


MODELS = {"torch", "diffusers", "transformers", "deepspeed", "datasets"}


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("cluster.cli.main", MODELS | {"ray"}),
        # Every task that reads or commits a shard imports these.
        ("cluster.phases.generate, cluster.dataflow.dataflow", MODELS),
        ("cluster.phases.pipeline, cluster.phases.reinforce, cluster.phases.arms", MODELS | {"ray"}),
        # A stage of one's own gets a torch.device and no more.
        ("actors.build", MODELS - {"torch"}),
    ],
)
def test_heavy_libraries_are_imported_only_where_a_model_is(modules: str, heavy: set[str]) -> None:
    probe = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
