"""Read a run file: YAML 1.2 and overrides in, a checked RunFile out."""

import difflib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from engine.errors import RunFileError
from engine.runfile.fields import PATH, Config, ModelConfig
from engine.runfile.problems import describe_problems
from engine.runfile.run import RunFile, resolve_path

ALIASES = "zoo/"
DATA_SUFFIXES = {".csv": "table", ".tsv": "table", ".jsonl": "table", ".tar": "webdataset"}
# A character beyond U+FFFF as JSON escapes it (for YAML these are two, neither of which can be written), or an escaped
# backslash, which is part of no such escape.
PAIR = re.compile(r"(\\\\)|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Override:
    """Hold one `--set path=value`."""

    text: str
    path: tuple[str, ...]
    value: Any  # any YAML value


def load_run_file(path: Path | str, overrides: Sequence[str] = ()) -> RunFile:
    """Read a run file and apply overrides such as `stages.editor.num_inference_steps=20`.

    Relative paths in the file are relative to its folder, those in an override to the current folder; the result holds
    absolute ones. Raise RunFileError, one line a problem.
    """
    path = Path(path)
    tree = _read_tree(path)
    changes = [parse_override(text) for text in overrides]
    for change in changes:
        _apply(tree, change)
    try:
        run = RunFile.model_validate(tree)
    except ValidationError as error:
        lines = describe_problems(error, tree, str(path), [(change.path, f"--set {change.text}") for change in changes])
        raise RunFileError("\n".join(lines)) from error

    def base(field: tuple[str, ...]) -> Path:
        from_override = any(field[: len(change.path)] == change.path for change in changes)
        return Path.cwd() / "run.yaml" if from_override else path.absolute()

    resolved: RunFile = _resolved(run, (), base)
    return resolved


def dump_run_file(run: RunFile) -> str:
    """Return the run file as YAML with every default written out; it loads as an equal RunFile."""
    buffer = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None
    yaml.width = 120
    yaml.dump(run.model_dump(mode="json"), buffer)
    return buffer.getvalue()


def describe_changes(before: RunFile, after: RunFile) -> list[str]:
    """Return each field that differs with both values, such as `report.group_by: [] -> ["background"]`."""
    old, new = (dict(_leaves(run.model_dump(mode="json"))) for run in (before, after))
    return [
        f"{name}: {json.dumps(old.get(name), ensure_ascii=False)} -> {json.dumps(new.get(name), ensure_ascii=False)}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _leaves(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def parse_override(text: str) -> Override:
    """Return the path and value of `a.b=value`; the value is YAML, so `[1, 2]` is a list and `1e-4` a number."""
    name, equals, value = text.partition("=")
    path = tuple(part.strip() for part in name.split("."))
    if not equals or not all(path):
        raise RunFileError(f"--set {text}: expected field=value, such as --set stages.editor.num_inference_steps=20")
    try:
        return Override(text=text, path=path, value=_load_yaml(value))
    except YAMLError as error:
        problem = error.problem if isinstance(error, MarkedYAMLError) else str(error)
        raise RunFileError(
            f"--set {text}: the value is not YAML: {problem}; quote it, such as a.b='\"x: y\"'"
        ) from error


def _read_tree(path: Path) -> dict[str, Any]:
    if path.suffix.lower() in DATA_SUFFIXES:
        raise RunFileError(
            f"{path} is data, expected a run file (YAML) that names it: `data: {{train: {{kind: "
            f"{DATA_SUFFIXES[path.suffix.lower()]}, path: {path.name}}}}}`; configs/wardrobe.yaml is an example"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunFileError(f"run file not found: {path}{_near(path)}") from error
    except IsADirectoryError as error:
        raise RunFileError(f"{path} is a folder, expected a run file{_run_file_in(path)}") from error
    except PermissionError as error:
        raise RunFileError(f"{path} may not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RunFileError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    try:
        tree = _load_yaml(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise RunFileError(
            f"{place}: not valid YAML: {' '.join(filter(None, (error.context, error.problem)))}"
        ) from error
    except YAMLError as error:
        raise RunFileError(f"{path}: not valid YAML: {error}") from error
    if tree is None:
        raise RunFileError(f"{path} is empty; expected a run file with name, data, stages and probe")
    if not isinstance(tree, dict):
        raise RunFileError(f"{path}: expected fields such as `name: demo`, got a {type(tree).__name__}")
    return tree


def _load_yaml(text: str) -> Any:  # noqa: ANN401 any YAML value
    """Return the value of a YAML text; YAMLError for what ruamel raises as something else, too."""
    try:
        return YAML(typ="safe", pure=True).load(PAIR.sub(lambda found: found[1] or json.loads(f'"{found[0]}"'), text))
    except RecursionError as error:
        raise YAMLError("it is nested too deeply") from error
    except ValueError as error:
        # A date with a thirteenth month, a number with thousands of digits.
        raise YAMLError(str(error)) from error


def _run_file_in(folder: Path) -> str:
    """Return which run file of a folder was meant, as the end of a message."""
    if (folder / "run.json").is_file():
        return f": it is a run directory, which `counterforge status {folder}` shows; its run file is {folder}/run.yaml"
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    return f"; did you mean {folder / names[0]}?" if names else " such as configs/wardrobe.yaml, which names it as data"


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"; did you mean {path.parent / near[0]}?"
    return f"; {path.parent}{os.sep} has {', '.join(sorted(names)[:8]) or 'no .yaml file'}"


def _apply(tree: dict[str, Any], change: Override) -> None:
    here: Any = tree  # any YAML value
    for depth, part in enumerate(change.path, 1):
        before = ".".join(change.path[:depth])
        place: int | str = part
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                raise RunFileError(f"--set {change.text}: {before}: expected an index below {len(here)}, got {part!r}")
            place = int(part)
        if depth == len(change.path):
            here[place] = change.value
            return
        if isinstance(here, dict) and here.get(part) is None:
            if change.path[0] == "stages" and depth == 2:
                raise RunFileError(f"--set {change.text}: there is no stage {part!r}; the stages are {', '.join(here)}")
            here[part] = {}
        here = here[place]
        if not isinstance(here, dict | list):
            raise RunFileError(f"--set {change.text}: {before} is {here!r}, which has no fields; set {before} itself")


def _resolved(value: Any, at: tuple[str, ...], base: Callable[[tuple[str, ...]], Path]) -> Any:  # noqa: ANN401 its type
    """Return settings with absolute paths; `base` gives the file that the path of a field is relative to."""
    match value:
        case Config():
            changes = {name: _resolved(each, (*at, name), base) for name, each in value}
            for name, each in value:
                is_path = PATH in type(value).model_fields[name].metadata
                if is_path and isinstance(each, tuple):
                    changes[name] = tuple(resolve_path(os.path.expanduser(path), base((*at, name))) for path in each)
                elif isinstance(each, str) and (is_path or (isinstance(value, ModelConfig) and name == "name")):
                    resolved = resolve_path(os.path.expanduser(each), base((*at, name)))
                    changes[name] = resolved if is_path or _is_local_model(each, resolved) else each
            return value.model_copy(update=changes)
        case dict():
            return {name: _resolved(each, (*at, str(name)), base) for name, each in value.items()}
        case tuple():
            return tuple(_resolved(each, (*at, str(place)), base) for place, each in enumerate(value))
        case _:
            return value


def _is_local_model(name: str, resolved: str) -> bool:
    if name.startswith(ALIASES):
        return False
    return name.startswith(("./", "../", "~", "/")) or os.path.isdir(resolved)
