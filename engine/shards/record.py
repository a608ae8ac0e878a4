"""The record of a sample: one flat, typed form with the same names in the JSON of a tar and in the rows of a table.

Fixed fields have one type in all samples. Open mappings become fields with a prefix: `score_image`, `attribute_camera`,
`target_boot`, `note_question`; what the stages noted is the struct `provenance`. Hugging Face infers the types of a
whole dataset from five samples, so every record of a shard has all fields, and no field is null: a text that is not
there is "", a number NaN. NaN is the one token that strict JSON lacks; Python, webdataset, pandas and jq read it.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import Any, cast

from engine.sample import Edit, ImageBytes, Json, Sample, Verdict

SCORE, ATTRIBUTE, TARGET, NOTE = "score_", "attribute_", "target_", "note_"
# Without a look for circles, which would take a third longer: they end in a RecursionError.
JSON = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)
NO_EDIT = Edit(kind="", before="", after="", instruction="", caption="", severity=0.0, turn=0)
NO_VERDICT = Verdict(accepted=False)

# The value of a field of `provenance` that a sample lacks: it shows the type. None: of no known type yet.
Blank = None | str | int | float | bool | dict[str, "Blank"]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """List the fields that the records of a shard have beside the fixed ones, in order of their names.

    `provenance` maps each stage, or other thing noted, to a blank of its type.
    """

    scores: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Blank] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Fields":
        """Return the fields in which any of the samples has something.

        One in which all are blank would be lost when they are read, and with it the bytes of what is written again.
        """
        scores: set[str] = set()
        attributes: set[str] = set()
        targets: set[str] = set()
        notes: set[str] = set()
        provenance: dict[str, Blank] = {}
        # Samples share the values that stages note; kept here, no other object gets the id of one.
        seen: dict[tuple[str, int], Json] = {}
        for sample in samples:
            scores.update(name for name, value in sample.scores.items() if value == value)
            attributes.update(name for name, text in sample.attributes.items() if text)
            targets.update(name for name, share in sample.target.items() if share)
            if sample.verdict is not None:
                notes.update(name for name, text in sample.verdict.notes.items() if text)
            for name, value in sample.provenance.items():
                if (name, id(value)) not in seen:
                    seen[name, id(value)] = value
                    if not _is_blank(value):
                        provenance[name] = _joined(provenance.get(name), _blank_of(value))
        return cls(
            scores=tuple(sorted(scores)),
            attributes=tuple(sorted(attributes)),
            targets=tuple(sorted(targets)),
            notes=tuple(sorted(notes)),
            provenance={name: _settled(provenance[name]) for name in sorted(provenance)},
        )


class RecordWriter:
    """Write the records of one shard as JSON, all with the same fields in order of their names."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._scores = [(name, f'"{_escaped(SCORE + name)}":') for name in fields.scores]
        self._provenance: dict[tuple[object, ...], tuple[object, str]] = {}
        self._attributes: dict[int, tuple[object, str]] = {}

    def json(self, sample: Sample) -> bytes:
        """Return everything but the image, as JSON. Raises ValueError for an infinite number."""
        edit, verdict = sample.edit or NO_EDIT, sample.verdict or NO_VERDICT
        scores = sample.scores
        # Written out, names in order: from a dict it takes twice as long.
        return (
            f'{{{self._attributes_of(sample.attributes)}"caption":{_quoted(sample.caption)}'
            f',"class_name":{_quoted(sample.class_name)}'
            f',"edit_after":{_quoted(edit.after)},"edit_before":{_quoted(edit.before)}'
            f',"edit_caption":{quoted(edit.caption)},"edit_instruction":{quoted(edit.instruction)}'
            f',"edit_kind":{_quoted(edit.kind)},"edit_region":{_quoted(edit.region)}'
            f',"edit_severity":{number(edit.severity)},"edit_steered":{"true" if edit.steered else "false"}'
            f',"edit_strategy":{_quoted(edit.strategy)},"edit_target":{_quoted(edit.target)}'
            f',"edit_turn":{edit.turn:d},"key":{quoted(sample.key)},"label":{sample.label:d},'
            f"{_texts(NOTE, self._fields.notes, verdict.notes) if self._fields.notes else ''}"
            f"{self._provenance_of(sample.provenance) if self._fields.provenance else ''}"
            f'"reasons":{quoted(",".join(reasons_of(sample))) if verdict.reasons else EMPTY}'
            f',"role":{_quoted(sample.role)},'
            f"{''.join([f'{head}{number(scores.get(name, math.nan))},' for name, head in self._scores])}"
            f'"source_key":{_quoted(sample.source_key)},"split":{_quoted(sample.split)},'
            f"{_shares(self._fields.targets, sample.target) if self._fields.targets else ''}"
            f'"verdict":"{("accepted" if verdict.accepted else "rejected") if sample.verdict else ""}"}}'
        ).encode()

    def _attributes_of(self, attributes: Mapping[str, str]) -> str:
        # A source's edits have its own mapping.
        known = self._attributes.get(id(attributes))
        if known is None:
            known = attributes, _texts(ATTRIBUTE, self._fields.attributes, attributes)
            self._attributes[id(attributes)] = known
        return known[1]

    def _provenance_of(self, provenance: Mapping[str, Json]) -> str:
        same = (*provenance, *map(id, provenance.values()))
        known = self._provenance.get(same)
        if known is None:
            record = {name: _filled(_noted(provenance, name), blank) for name, blank in self._fields.provenance.items()}
            text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            known = self._provenance[same] = tuple(provenance.values()), f'"provenance":{text},'
        return known[1]


def sample_from_json(data: bytes, image: ImageBytes) -> Sample:
    """Return the sample that a record was written from, with its image: scores that are NaN and blanks are left out."""
    record = json.loads(data)
    verdict = record["verdict"]
    return Sample(
        key=record["key"],
        source_key=record["source_key"],
        role=record["role"],
        image=image,
        label=record["label"],
        class_name=record["class_name"],
        split=record["split"],
        caption=record["caption"],
        edit=edit_of(record) if record["edit_kind"] else None,
        target=mapping_of(record, TARGET),
        attributes=mapping_of(record, ATTRIBUTE),
        scores=mapping_of(record, SCORE),
        verdict=Verdict(
            accepted=verdict == "accepted",
            reasons=tuple(record["reasons"].split(",")) if record["reasons"] else (),
            notes=mapping_of(record, NOTE),
        )
        if verdict
        else None,
        provenance=provenance_of(record.get("provenance") or {}),
    )


def edit_of(record: Mapping[str, Any]) -> Edit:
    """Return the edit of a record or row."""
    return Edit(
        kind=record["edit_kind"],
        before=record["edit_before"],
        after=record["edit_after"],
        instruction=record["edit_instruction"],
        caption=record["edit_caption"],
        severity=record["edit_severity"],
        strategy=record["edit_strategy"],
        target=record["edit_target"],
        turn=record["edit_turn"],
        region=record["edit_region"],
        steered=record["edit_steered"],
    )


def mapping_of(record: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the open mapping whose fields begin with `prefix`, without those that are blank: null, "", 0 or NaN.

    A score of 0 is a score.
    """
    return {
        name.removeprefix(prefix): value
        for name, value in record.items()
        if name.startswith(prefix) and value is not None and value == value and (value or prefix == SCORE)
    }


def provenance_of(record: Mapping[str, Json]) -> dict[str, Json]:
    """Return what stages noted, without those that did not see the sample."""
    return {name: value for name, value in record.items() if not _is_blank(value)}


def filled_provenance(provenance: Mapping[str, Json], fields: Fields) -> dict[str, Json]:
    """Return what stages noted as a row has it: a blank for each field that a stage left out, None for other stages."""
    filled = {name: _filled(_noted(provenance, name), blank) for name, blank in fields.provenance.items()}
    return {name: None if _is_blank(value) else value for name, value in filled.items()}


def reasons_of(sample: Sample) -> list[str]:
    """Return the reasons of a verdict as they are stored: a comma would part them where they are joined."""
    return [reason.replace(",", ";") for reason in sample.verdict.reasons] if sample.verdict else []


def dump_json(value: object) -> str:
    """Return strict JSON in one fixed form: sorted names, no spaces; ValueError for NaN and infinity."""
    return JSON.encode(value)


def number(value: float) -> str:
    """Return a number as JSON, NaN as NaN. Raises ValueError for infinity."""
    text = repr(float(value))
    if text[-1] not in "nf":
        return text
    if text == "nan":
        return "NaN"
    raise ValueError(f"{value} is not JSON compliant")


EMPTY = '""'
# What many samples have.
_quoted = lru_cache(1024)(quoted)


def _texts(prefix: str, names: Iterable[str], texts: Mapping[str, str]) -> str:
    return "".join(f"{quoted(prefix + name)}:{quoted(texts.get(name, ''))}," for name in names)


def _shares(names: Iterable[str], shares: Mapping[str, float]) -> str:
    return "".join(f"{quoted(TARGET + name)}:{number(shares.get(name, 0.0))}," for name in names)


def _escaped(text: str) -> str:
    """Return a text as it stands between the quotes of a string of JSON."""
    return quoted(text)[1:-1]


def _blank_of(value: Json) -> Blank:
    match value:
        case None:
            return None
        case bool():
            return False
        case int():
            return 0
        case float():
            return math.nan
        case dict():
            return {name: _blank_of(each) for name, each in value.items()}
        case _:
            return ""


def _joined(one: Blank, other: Blank) -> Blank:
    """Return the blank of values of both types; of a text where they are of types that do not go together."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _joined(one.get(name), other.get(name)) for name in {**one, **other}}
    if type(one) is type(other):
        return one
    return math.nan if {type(one), type(other)} == {int, float} else ""


def _settled(blank: Blank) -> Blank:
    """Return a blank in which what was never anything but None is a text, names in order."""
    if isinstance(blank, dict):
        return {name: _settled(blank[name]) for name in sorted(blank)}
    return "" if blank is None else blank


def _noted(provenance: Mapping[str, Json], name: str) -> Json:
    """Return what was noted under a name, None where that is nothing but blanks: it is not in the fields either."""
    value = provenance.get(name)
    return None if _is_blank(value) else value


def _filled(value: Json, blank: Blank) -> Json:
    """Return a value with a blank for each field that it lacks, in the types of `blank`."""
    if isinstance(blank, dict):
        mapping = value if isinstance(value, dict) else {}
        return {name: _filled(mapping.get(name), each) for name, each in blank.items()}
    if value is None or value != value:
        return cast(Json, blank)
    match blank:
        case str():
            if isinstance(value, list):
                return ", ".join(map(str, value))
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        case float():
            if math.isinf(cast(float, value)):
                raise ValueError(f"{value} is not JSON compliant")
            return float(cast(float, value))
        case _:
            return value


def _is_blank(value: Json) -> bool:
    if isinstance(value, dict):
        return all(map(_is_blank, value.values()))
    return not value or value != value
