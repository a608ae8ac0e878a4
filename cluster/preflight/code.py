"""Code of the user's that a run file names: found and parsed, never imported, so none of it runs."""

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from inspect import Parameter
from pathlib import Path

from engine.errors import ModelError
from engine.runfile.run import RunFile
from engine.runfile.stages import PluginConfig
from engine.wording import name_some

REMEDY = "install it, or put its folder on PYTHONPATH or beside the run file"
STAGE_CALL = "Class(options, device, name=..., seed=...)"


def check_stage_code(run: RunFile) -> Iterator[ModelError]:
    """Yield what is wrong with the classes of plugin stages."""
    for name, config in run.stages.items():
        if isinstance(config, PluginConfig):
            yield from check_target(f"stages.{name}.target", config.target, is_stage=True)


def check_target(field: str, target: str, *, is_stage: bool) -> Iterator[ModelError]:
    """Yield what is wrong with `package.module:name`: not found, no Python, imports or a name that are not there."""
    module, _, name = target.partition(":")
    what = f"{field}: {target}"
    if (spec := find_module(module)) is None:
        yield ModelError(f"{what}: no module {module!r} is found from here: {REMEDY}")
        return
    if spec.origin is None or not spec.origin.endswith(".py"):
        return  # compiled: only importing it would tell
    try:
        text = Path(spec.origin).read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError) as error:
        yield ModelError(f"{what}: {spec.origin} is not Python: {error}: correct it")
        return
    for line, imported in _imports(tree) if "sys.path" not in text else ():
        if find_module(imported) is None:
            yield ModelError(f"{what}: line {line} of {spec.origin} imports {imported!r}, not found here: {REMEDY}")
    defined = dict(_definitions(tree.body))
    if not {name, "*", "__getattr__"} & defined.keys():
        kind = ast.ClassDef if is_stage else ast.FunctionDef
        known = [each for each, node in defined.items() if isinstance(node, kind) and not each.startswith("_")]
        remedy = f"name one of {name_some(known)}" if known else "define it there"
        yield ModelError(f"{what}: {spec.origin} defines no {name!r}: {remedy}")
    elif is_stage:
        yield from _check_call(what, defined.get(name))


def place_of(target: str) -> str:
    """Return in words the file of `package.module:name`."""
    module = target.partition(":")[0]
    if (spec := find_module(module)) is None:
        return f"but no module {module!r} is found from here"
    return f"in {spec.origin or ', '.join(spec.submodule_search_locations or ())}"


def find_module(module: str) -> ModuleSpec | None:
    """Return the spec of a module; importlib.util.find_spec would import its parent packages, and so run them."""
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((each for each in found if each is not None), None)
        if spec is None or (path := spec.submodule_search_locations) is None:
            return spec if name == module else None
    return spec


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and top-level package of what a module imports whatever happens: not inside try, if or a function."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.lineno, node.module.partition(".")[0]


def _definitions(body: Iterable[ast.AST]) -> Iterator[tuple[str, ast.AST | None]]:
    """Yield the names that statements define, "*" for unknown ones, with the node of a function or class."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name.partition(".")[0], None) for alias in node.names)
            case ast.Name(ctx=ast.Store()):
                yield node.id, None
            case _:
                yield from _definitions(ast.iter_child_nodes(node))


def _check_call(what: str, node: ast.AST | None) -> Iterator[ModelError]:
    """Yield an error where a stage cannot be made as STAGE_CALL; a class that inherits its __init__ is not judged."""
    if isinstance(node, ast.ClassDef):
        made = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        first: tuple[object, ...] = (None,)
    else:
        made, first = [node] if isinstance(node, ast.FunctionDef) else [], ()
    for function in made:
        try:
            _signature(function.args).bind(*first, {}, "cpu", name="", seed=0)
        except TypeError as error:
            yield ModelError(
                f"{what} cannot be made as {STAGE_CALL}: {error}: write "
                "def __init__(self, options, device, *, name, seed)"
            )


def _signature(written: ast.arguments) -> inspect.Signature:
    positional = [*written.posonlyargs, *written.args]
    num_required = len(positional) - len(written.defaults)
    parameters = [
        Parameter(each.arg, Parameter.POSITIONAL_OR_KEYWORD, default=Parameter.empty if place < num_required else None)
        for place, each in enumerate(positional)
    ]
    parameters += [Parameter(each.arg, Parameter.VAR_POSITIONAL) for each in (written.vararg,) if each]
    parameters += [
        Parameter(each.arg, Parameter.KEYWORD_ONLY, default=Parameter.empty if default is None else None)
        for each, default in zip(written.kwonlyargs, written.kw_defaults, strict=True)
    ]
    parameters += [Parameter(each.arg, Parameter.VAR_KEYWORD) for each in (written.kwarg,) if each]
    return inspect.Signature(parameters)
