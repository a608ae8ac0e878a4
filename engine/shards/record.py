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
from math import isfinite
from typing import Any

import orjson

from engine.sample import Edit, ImageBytes, Json, Sample, Verdict
from engine.shards.blanks import Blank, blank_of, filled, is_blank, joined, noted, settled

SCORE, ATTRIBUTE, TARGET, NOTE = "score_", "attribute_", "target_", "note_"
# Without a look for circles, which would take a third longer: they end in a RecursionError.
JSON = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)
NO_EDIT = Edit(kind="", before="", after="", instruction="", caption="", severity=0.0, turn=0)
NO_VERDICT = Verdict(accepted=False)


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
            if not sample.scores.keys() <= scores:
                scores.update(name for name, value in sample.scores.items() if value == value)
            if not sample.attributes.keys() <= attributes:
                attributes.update(name for name, text in sample.attributes.items() if text)
            if sample.target:
                targets.update(name for name, share in sample.target.items() if share)
            if sample.verdict is not None and sample.verdict.notes:
                notes.update(name for name, text in sample.verdict.notes.items() if text)
            for name, value in sample.provenance.items():
                if (name, id(value)) not in seen:
                    seen[name, id(value)] = value
                    if not is_blank(value):
                        provenance[name] = joined(provenance.get(name), blank_of(value))
        return cls(
            scores=tuple(sorted(scores)),
            attributes=tuple(sorted(attributes)),
            targets=tuple(sorted(targets)),
            notes=tuple(sorted(notes)),
            provenance={name: settled(provenance[name]) for name in sorted(provenance)},
        )


class RecordWriter:
    """Write the records of one shard as JSON, all with the same fields in order of their names."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        heads = [f'"{_escaped(SCORE + name)}":'.replace("%", "%%") for name in fields.scores]
        self._num_scores, self._undefined = len(heads), [math.nan] * len(heads)
        self._scores = "".join(f"{head}%s," for head in heads)
        self._provenance: dict[tuple[object, ...], tuple[object, str]] = {}
        self._attributes: dict[int, tuple[object, str]] = {}

    def json(self, sample: Sample) -> bytes:
        """Return everything but the image, as JSON. Raises ValueError for an infinite number."""
        edit, verdict, fields = sample.edit or NO_EDIT, sample.verdict or NO_VERDICT, self._fields
        # Written out, names in order: from a dict it takes twice as long.
        return (
            f'{{{self._attributes_of(sample.attributes)}"caption":{_quoted(sample.caption)}'
            f',"class_name":{_quoted(sample.class_name)}'
            f',"edit_after":{_quoted(edit.after)},"edit_before":{_quoted(edit.before)}'
            f',"edit_caption":{quoted(edit.caption)},"edit_instruction":{quoted(edit.instruction)}'
            f',"edit_kind":{_edit_end(edit.kind, edit.region, edit.severity, edit.steered, edit.strategy, edit.target)}'
            f',"edit_turn":{edit.turn},"key":{quoted(sample.key)},"label":{sample.label:d},'
            f"{_texts(NOTE, fields.notes, verdict.notes) if fields.notes else ''}"
            f"{self._provenance_of(sample.provenance) if fields.provenance else ''}"
            f'"reasons":{quoted(",".join(reasons_of(sample))) if verdict.reasons else EMPTY}'
            f',"role":"{sample.role}",{self._scores_of(sample.scores)}'
            f'"source_key":{_quoted(sample.source_key)},"split":"{sample.split}",'
            f"{_shares(fields.targets, sample.target) if fields.targets else ''}"
            f'"verdict":"{("accepted" if verdict.accepted else "rejected") if sample.verdict else ""}"}}'
        ).encode()

    def _scores_of(self, scores: Mapping[str, float]) -> str:
        if scores and len(scores) == self._num_scores:
            values = list(map(float, map(scores.get, self._fields.scores, self._undefined)))
            sizes = list(map(abs, values))
            # There orjson writes each number as Python does, in a fifth of the time; it writes 1e-05 as 0.00001.
            if min(sizes) >= 1e-4 and max(sizes) < 1e16 and isfinite(sum(sizes)):
                return self._scores % tuple(orjson.dumps(values)[1:-1].decode().split(","))
        return self._scores % tuple(number(scores.get(name, math.nan)) for name in self._fields.scores)

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
            record = {name: filled(noted(provenance, name), blank) for name, blank in self._fields.provenance.items()}
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
    return {name: value for name, value in record.items() if not is_blank(value)}


def filled_provenance(provenance: Mapping[str, Json], fields: Fields) -> dict[str, Json]:
    """Return what stages noted as a row has it: a blank for each field that a stage left out, None for other stages."""
    found = {name: filled(noted(provenance, name), blank) for name, blank in fields.provenance.items()}
    return {name: None if is_blank(value) else value for name, value in found.items()}


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


@lru_cache(1024)
def _edit_end(kind: str, region: str, severity: float, steered: bool, strategy: str, target: str) -> str:
    """Return what follows the name edit_kind, up to edit_turn: the edits of a run have few of them."""
    return (
        f'{quoted(kind)},"edit_region":{quoted(region)},"edit_severity":{number(severity)}'
        f',"edit_steered":{"true" if steered else "false"},"edit_strategy":{quoted(strategy)}'
        f',"edit_target":{quoted(target)}'
    )


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
