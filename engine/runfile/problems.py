"""Pydantic's errors in words: one line a problem, with what was seen and what would be right."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from engine.runfile.run import RunFile

NAMES_SHOWN = 24
TEXT_SHOWN = 60

EXPECTED = "expected "

Location = tuple[str | int, ...]


def describe_problems(
    error: ValidationError, tree: dict[str, Any], name: str, overrides: Sequence[tuple[tuple[str, ...], str]]
) -> list[str]:
    """Return one line a problem. A problem at the path of an override names the override instead of the file."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        path = _plain_path(problem, tree)
        line = f"{_origin(path, name, overrides)}{_describe(problem)}"
        head, got, seen = line.partition(", got ")
        # A field that may be of two types gives one problem for each.
        twin = next((place for place, other in enumerate(lines) if got and _is_twin(other, head, got + seen)), None)
        if twin is None:
            lines.append(line)
        else:
            lines[twin] = f"{lines[twin].removesuffix(got + seen)} or {head.rpartition(EXPECTED)[2]}{got}{seen}"
    return list(dict.fromkeys(lines))


def closest(word: str, names: Sequence[str]) -> str | None:
    """Return the name that `word` was meant to be: spelt alike, or sharing a part (steps, num_inference_steps)."""
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return near[0]
    parts = set(word.lower().replace("-", "_").split("_"))
    alike = [(len(parts & set(name.split("_"))) / len(name.split("_")), name) for name in names]
    score, name = max(alike, default=(0.0, ""))
    return name if score > 0 else None


def _describe(problem: ErrorDetails) -> str:
    context = problem.get("ctx", {})
    seen = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            model = _model_at(problem["loc"][:-1])
            known = [] if model is None else list(model.model_fields)
            return f"unknown field{_suggest(str(problem['loc'][-1]), known)}"
        case "missing":
            purpose = _purpose(problem["loc"])
            return f"is missing{f'; expected {purpose}' if purpose else ''}"
        case "union_tag_invalid":
            known = [name.strip(" '") for name in context["expected_tags"].split(",")]
            return f"unknown kind {context['tag']!r}{_suggest(str(context['tag']), known)}"
        case "union_tag_not_found":
            return f"`kind` is missing; expected one of {_kinds_at(problem['loc'])}"
        case "literal_error":
            known = [name.strip(" '") for name in context["expected"].replace(" or ", ", ").split(",")]
            return f"got {_show(seen)}{_suggest(str(seen), known)}"
        case "value_error":
            return str(context["error"])
        case "model_type" | "model_attributes_type" | "dict_type":
            kinds = _kinds_at(problem["loc"])
            fields = f"fields with a `kind` ({kinds})" if kinds else "fields (a mapping)"
            remedy = _mapping_for(seen, _model_at(problem["loc"]))
            return f"{EXPECTED}{fields}, got {_show(seen)}{remedy}"
        case "string_pattern_mismatch":
            return f"{EXPECTED}{_purpose(problem['loc']) or context['pattern']}, got {_show(seen)}"
        case _:
            return _describe_value(problem["msg"], seen)


def _describe_value(message: str, seen: object) -> str:
    words = message.removeprefix("Input should be ").partition(", ")[0]
    words = words.replace("a valid integer", "an integer").replace("a valid tuple", "a list").replace("a valid ", "a ")
    if words == message:
        return f"{words}, got {_show(seen)}"
    return f"{'must be ' if words.startswith(('less', 'greater')) else EXPECTED}{words}, got {_show(seen)}"


def _mapping_for(seen: object, model: type[BaseModel] | None) -> str:
    """Return the mapping that a bare value was probably meant to be."""
    if seen is None:
        return "; fill it or remove the line"
    if isinstance(seen, str) and model is not None and "name" in model.model_fields:
        return f"; did you mean {{name: {seen}}}?"
    return ""


def _origin(path: Location, name: str, overrides: Sequence[tuple[tuple[str, ...], str]]) -> str:
    """Return where a problem comes from: the override that set the field, or the file (with one that set a part)."""
    texts = tuple(map(str, path))
    for where, text in overrides:
        if texts[: len(where)] == where:
            rest = ".".join(texts[len(where) :])
            return f"{text}: {rest}: " if rest else f"{text}: "
    part = next((f" with {text}" for where, text in overrides if texts and where[: len(texts)] == texts), "")
    return f"{name}{part}: {'.'.join(texts)}: " if texts else f"{name}{part}: "


def _is_twin(line: str, head: str, seen: str) -> bool:
    return line.endswith(seen) and EXPECTED in line and line.partition(EXPECTED)[0] == head.partition(EXPECTED)[0]


def _suggest(word: str, known: Sequence[str]) -> str:
    near = closest(word, known)
    if near is not None:
        return f"; did you mean {near}?"
    return f"; known are {', '.join(known[:NAMES_SHOWN])}" if known else ""


def _show(value: object) -> str:
    match value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case _:
            text = repr(value)
            return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}..."


def _plain_path(problem: ErrorDetails, tree: object) -> Location:
    """Return the location without the tags that pydantic adds for a member of a union."""
    path: list[str | int] = []
    here = tree
    location = problem["loc"]
    for place, part in enumerate(location):
        last = place == len(location) - 1
        match here:
            case dict() if part in here:
                here = here[part]
            case list() if isinstance(part, int) and part < len(here):
                here = here[part]
            case _ if not (last and problem["type"] == "missing"):
                continue
        path.append(part)
    return tuple(path)


def _model_at(location: Location) -> type[BaseModel] | None:
    models = list(_models(_annotation_at(RunFile, location)))
    return models[0] if len(models) == 1 else None


def _kinds_at(location: Location) -> str:
    """Return the kinds to choose from at a location, nothing where it has no kinds."""
    annotation = _annotation_at(RunFile, location)
    kinds = [] if get_origin(annotation) is dict else [str(_kind(model)) for model in _models(annotation)]
    return ", ".join(kinds) if len(kinds) > 1 else ""


def _annotation_at(annotation: object, location: Location) -> object:
    """Return the type at a location, following the schema; None where the schema has no such field."""
    for part in location:
        models = list(_models(annotation))
        if (origin := get_origin(annotation)) in (dict, tuple, list):
            annotation = get_args(annotation)[1 if origin is dict else 0]
        elif tagged := [model for model in models if len(models) > 1 and _kind(model) == part]:
            annotation = tagged[0]
        elif len(models) == 1 and (field := models[0].model_fields.get(str(part))):
            annotation = field.annotation
        else:
            return None
    return annotation


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in get_args(annotation):
        yield from _models(argument)


def _purpose(location: Location) -> str | None:
    """Return the description of the field at a location, or what the section that it holds is for."""
    model = _model_at(location[:-1])
    field = None if model is None else model.model_fields.get(str(location[-1]))
    if field is None or field.description is not None:
        return field and field.description
    section = field.annotation
    is_section = isinstance(section, type) and issubclass(section, BaseModel)
    return f"fields that {(section.__doc__ or '').partition('.')[0].lower()}" if is_section else None


def _kind(model: type[BaseModel]) -> object:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None
