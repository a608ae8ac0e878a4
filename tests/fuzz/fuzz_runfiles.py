"""Random run files and overrides: each is read as a second reader has it, or refused in words."""

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from repository import DEMO

from engine.errors import RunFileError
from engine.runfile.load import dump_run_file, load_run_file, parse_override
from engine.runfile.run import RunFile

# What YAML allows in a text; it refuses others in words, keys of more than 1,024 characters too, or reads a line break
# that JSON does not know.
CHARACTERS = st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufeff")
TEXT = st.text(CHARACTERS, max_size=50)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS
    | st.sampled_from(["zoo/patient", "cpu", "auto", "./a", "~/a", 0, 1, 2, 0.5, 1.0, "1", "yes", "1e3", "0o7"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
TREE: dict[str, Any] = yaml.safe_load(DEMO.read_text())


def paths(tree: object, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all fields of a tree, by names and indices."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path for name, part in parts for path in ((*at, str(name)), *paths(part, (*at, str(name))))]


DEFAULTS = RunFile.model_validate(TREE).model_dump(mode="json")
PATHS = st.sampled_from(sorted({*paths(TREE), *paths(DEFAULTS)}))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a run file: the demo's, with a few fields changed, taken away or added."""
    tree = json.loads(json.dumps(draw(st.sampled_from([TREE, DEFAULTS]))))
    for path in draw(st.lists(PATHS, min_size=1, max_size=3)):
        here: Any = tree
        for part in path[:-1]:
            here = here.get(part) if isinstance(here, dict) else None
        if isinstance(here, dict):
            match draw(st.integers(0, 2)):
                case 0:
                    here.pop(path[-1], None)
                case 1:
                    here[path[-1]] = draw(VALUES)
                case _:
                    here[draw(TEXT)] = draw(VALUES)
    return dict(tree)


def loaded(tree: dict[str, Any], *overrides: str) -> RunFile | RunFileError:
    """Return what is read from a file with this tree as JSON, which is YAML."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.yaml")
        path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
        try:
            return load_run_file(path, overrides)
        except RunFileError as error:
            return error


@given(value=VALUES, ascii_only=st.booleans())
def a_value_of_json_is_the_same_in_yaml(value: object, ascii_only: bool) -> None:
    read = parse_override(f"a.b={json.dumps(value, ensure_ascii=ascii_only)}")
    assert read.path == ("a", "b")
    # 1, 1.0 and true are three values.
    assert repr(read.value) == repr(value)


@given(tree=trees())
def a_run_file_loads_to_itself_or_is_refused_in_words(tree: dict[str, Any]) -> None:
    run = loaded(tree)
    if isinstance(run, RunFileError):
        return
    assert isinstance(run, RunFile)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.yaml")
        path.write_text(dump_run_file(run), encoding="utf-8")
        assert load_run_file(path) == run


@given(path=PATHS, value=VALUES)
def an_override_sets_what_a_change_of_the_file_sets(path: tuple[str, ...], value: object) -> None:
    tree: Any = json.loads(json.dumps(DEFAULTS))
    text = f"{'.'.join(path)}={json.dumps(value, ensure_ascii=False)}"
    found = loaded(tree, text)
    here: Any = tree
    for part in path[:-1]:
        here = here[int(part)] if isinstance(here, list) else here.get(part)
        assume(here is not None)
    here[int(path[-1]) if isinstance(here, list) else path[-1]] = value
    expected = loaded(tree)
    assert isinstance(found, RunFile) == isinstance(expected, RunFile)
    if isinstance(found, RunFile) and isinstance(expected, RunFile) and not names_a_path(value):
        assert found == expected


def names_a_path(value: object) -> bool:
    """Return whether a text in the value may be a relative path: its folder differs for an override."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, str) or any(map(names_a_path, parts))
