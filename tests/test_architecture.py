"""The house: which room may import which, and how large a room may grow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("engine", "actors", "cluster")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 50
FORBIDDEN = {
    "engine": {"actors", "cluster", "ray", "torch", "diffusers", "transformers", "deepspeed"},
    "actors": {"cluster", "ray"},
    "cluster": set(),
}
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


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = {"ray"} if path.stem.startswith("finetune") else set()
    roots = {name.split(".")[0] for name in imported_names(parse(path))}
    assert not roots & (FORBIDDEN[room] - allowed)


def test_only_ray_train_is_imported_by_the_finetuner() -> None:
    for path in (ROOT / "actors").glob("finetune*.py"):
        names = {name for name in imported_names(parse(path)) if name.split(".")[0] == "ray"}
        assert all(name == "ray" or name.startswith("ray.train") for name in names), names


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_do_no_work_when_imported(path: Path) -> None:
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in parse(path).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        entry = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        assert isinstance(node, definitions) or docstring or typing_only or entry, ast.unparse(node)


def test_module_names_say_what_they_own() -> None:
    assert not [path for path in MODULES if path.stem in VAGUE_NAMES]


def test_there_is_no_import_cycle() -> None:
    names = {module_name(path): path for path in MODULES}
    graph = {name: {used for used in imported_names(parse(path)) if used in names} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for used in sorted(graph[name] - {name}):
                visit(used, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


MODELS = {"torch", "diffusers", "transformers", "deepspeed", "datasets"}


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("cluster.cli", MODELS | {"ray"}),
        # Every task that reads or commits a shard imports these.
        ("cluster.generate, cluster.dataflow", MODELS),
        ("cluster.pipeline, cluster.reinforce, cluster.arms", MODELS | {"ray"}),
        # A stage of one's own gets a torch.device and no more.
        ("actors.build", MODELS - {"torch"}),
    ],
)
def test_heavy_libraries_are_imported_only_where_a_model_is(modules: str, heavy: set[str]) -> None:
    probe = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
