"""The Parquet rows of a shard: one for each edit, accepted or not, without pixels and without times."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.sample import Edit, Sample, Verdict
from engine.shards.blanks import Blank
from engine.shards.record import (
    ATTRIBUTE,
    NOTE,
    SCORE,
    TARGET,
    Fields,
    edit_of,
    filled_provenance,
    mapping_of,
    provenance_of,
    reasons_of,
)
from engine.storage.parquet import parquet_bytes

# `accepted` is null without a verifier. Each score, attribute, share of a target and note adds a column (see
# engine/shards/record.py), and `provenance` is a struct, null for a stage that did not see the edit.
SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("key", pa.string()),
        ("source_key", pa.string()),
        ("role", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("caption", pa.string()),
        ("edit_kind", pa.string()),
        ("edit_before", pa.string()),
        ("edit_after", pa.string()),
        ("edit_instruction", pa.string()),
        ("edit_caption", pa.string()),
        ("edit_severity", pa.float64()),
        ("edit_strategy", pa.string()),
        ("edit_target", pa.string()),
        ("edit_turn", pa.int32()),
        ("edit_region", pa.string()),
        ("edit_steered", pa.bool_()),
        ("accepted", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
    ]
)
PROVENANCE = "provenance"


def candidate_table(samples: Iterable[Sample], shard: int, fields: Fields | None = None) -> pa.Table:
    """Return one row for each placebo and counterfactual, sources left out, in the order of the samples.

    `fields` are those of the whole shard's records; by default those that the samples have. An undefined score is null.
    """
    edits = [sample for sample in samples if sample.role != "source"]
    fields = Fields.of(edits) if fields is None else fields
    return pa.Table.from_pylist([_row(sample, shard, fields) for sample in edits], schema=_schema(fields))


def encode_candidates(table: pa.Table) -> bytes:
    """Return the table as parquet, the same bytes for the same rows."""
    return parquet_bytes(table)


def read_candidates(data: bytes) -> pa.Table:
    """Return the table that `encode_candidates` wrote."""
    return pq.read_table(io.BytesIO(data))


def join_candidates(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of several shards as one table without provenance; what a shard does not have is null there."""
    plain = [table.drop_columns([PROVENANCE]) if PROVENANCE in table.column_names else table for table in tables]
    return pa.concat_tables([SCHEMA.empty_table(), *plain], promote_options="default")


def sample_of(row: Mapping[str, Any]) -> Sample:
    """Return the sample that a row was made from, without its image."""
    verdict = Verdict(accepted=bool(row["accepted"]), reasons=tuple(row["reasons"]), notes=mapping_of(row, NOTE))
    return Sample(
        key=row["key"],
        source_key=row["source_key"],
        role=row["role"],
        image=b"",
        label=row["label"],
        class_name=row["class_name"],
        split=row["split"],
        caption=row["caption"],
        edit=edit_of(row),
        target=mapping_of(row, TARGET),
        attributes=mapping_of(row, ATTRIBUTE),
        scores=mapping_of(row, SCORE),
        verdict=None if row["accepted"] is None else verdict,
        provenance=provenance_of(row.get(PROVENANCE) or {}),
    )


def edit_columns(edit: Edit | None) -> dict[str, str | float | bool | None]:
    """Return what a table of predictions says of an edit, all None for a source."""
    return {
        "edit_kind": edit.kind if edit else None,
        "edit_before": edit.before if edit else None,
        "edit_after": edit.after if edit else None,
        "edit_severity": edit.severity if edit else None,
        "edit_strategy": edit.strategy if edit else None,
        "edit_turn": edit.turn if edit else None,
        "edit_steered": edit.steered if edit else None,
    }


def _schema(fields: Fields) -> pa.Schema:
    texts, numbers = pa.string(), pa.float64()
    columns = [(ATTRIBUTE + name, texts) for name in fields.attributes]
    columns += [(SCORE + name, numbers) for name in fields.scores]
    columns += [(TARGET + name, numbers) for name in fields.targets]
    columns += [(NOTE + name, texts) for name in fields.notes]
    if fields.provenance:
        columns.append((PROVENANCE, _arrow_type(dict(fields.provenance))))
    return pa.schema([*SCHEMA, *columns])


def _arrow_type(blank: Blank) -> pa.DataType:
    match blank:
        case dict():
            return pa.struct([(name, _arrow_type(each)) for name, each in blank.items()])
        case bool():
            return pa.bool_()
        case int():
            return pa.int64()
        case float():
            return pa.float64()
        case _:
            return pa.string()


def _row(sample: Sample, shard: int, fields: Fields) -> Mapping[str, object]:
    edit, verdict = sample.edit, sample.verdict
    return {
        "shard": shard,
        "key": sample.key,
        "source_key": sample.source_key,
        "role": sample.role,
        "split": sample.split,
        "label": sample.label,
        "class_name": sample.class_name,
        "caption": sample.caption,
        **edit_columns(edit),
        "edit_instruction": edit.instruction if edit else None,
        "edit_caption": edit.caption if edit else None,
        "edit_target": edit.target if edit else None,
        "edit_region": edit.region if edit else None,
        "accepted": verdict.accepted if verdict else None,
        "reasons": reasons_of(sample),
        PROVENANCE: filled_provenance(sample.provenance, fields),
        **{ATTRIBUTE + name: text for name, text in sample.attributes.items() if text},
        **{SCORE + name: float(value) for name, value in sample.scores.items() if value == value},
        **{TARGET + name: share for name, share in sample.target.items() if share},
        **{NOTE + name: text for name, text in (verdict.notes if verdict else {}).items() if text},
    }
