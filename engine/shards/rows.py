"""The parquet rows of a shard: one for each edit, accepted or not, without pixels and without times."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.sample import Edit, Sample, Verdict
from engine.shards.tar import dump_json
from engine.storage.parquet import parquet_bytes

SCORE_PREFIX = "score_"

# `accepted` is null without a verifier; `attributes` and `provenance` are JSON. Each score adds a column of doubles.
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
        ("accepted", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
        ("attributes", pa.string()),
        ("provenance", pa.string()),
    ]
)


def candidate_table(samples: Iterable[Sample], shard: int) -> pa.Table:
    """Return one row for each placebo and counterfactual, sources left out, in the order of the samples.

    Score columns are named score_<name> and sorted; NaN is an undefined score, null one that was not asked.
    """
    edits = [sample for sample in samples if sample.role != "source"]
    names = sorted({name for sample in edits for name in sample.scores})
    schema = pa.schema([*SCHEMA, *((SCORE_PREFIX + name, pa.float64()) for name in names)])
    return pa.Table.from_pylist([_row(sample, shard) for sample in edits], schema=schema)


def encode_candidates(table: pa.Table) -> bytes:
    """Return the table as parquet, the same bytes for the same rows."""
    return parquet_bytes(table)


def read_candidates(data: bytes) -> pa.Table:
    """Return the table that `encode_candidates` wrote."""
    return pq.read_table(io.BytesIO(data))


def join_candidates(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of several shards as one table; a score that a shard does not have is null there."""
    return pa.concat_tables([SCHEMA.empty_table(), *tables], promote_options="default")


def scores_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of a row; a null one was not asked."""
    columns = {name: value for name, value in row.items() if name.startswith(SCORE_PREFIX) and value is not None}
    return {name.removeprefix(SCORE_PREFIX): value for name, value in columns.items()}


def sample_of(row: Mapping[str, Any]) -> Sample:
    """Return the sample that a row was made from, without its image."""
    return Sample(
        key=row["key"],
        source_key=row["source_key"],
        role=row["role"],
        image=b"",
        label=row["label"],
        class_name=row["class_name"],
        split=row["split"],
        caption=row["caption"],
        edit=Edit(
            kind=row["edit_kind"],
            before=row["edit_before"],
            after=row["edit_after"],
            instruction=row["edit_instruction"],
            caption=row["edit_caption"],
            severity=row["edit_severity"],
        ),
        attributes=json.loads(row["attributes"]),
        scores=scores_of(row),
        verdict=None if row["accepted"] is None else Verdict(accepted=row["accepted"], reasons=tuple(row["reasons"])),
        provenance=json.loads(row["provenance"]),
    )


def edit_columns(edit: Edit | None) -> dict[str, str | float | None]:
    """Return what a table says of an edit, all None for a source."""
    return {
        "edit_kind": edit.kind if edit else None,
        "edit_before": edit.before if edit else None,
        "edit_after": edit.after if edit else None,
        "edit_severity": edit.severity if edit else None,
    }


def _row(sample: Sample, shard: int) -> Mapping[str, object]:
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
        "accepted": verdict.accepted if verdict else None,
        "reasons": list(verdict.reasons) if verdict else [],
        "attributes": dump_json(dict(sample.attributes)),
        "provenance": dump_json(dict(sample.provenance)),
    } | {SCORE_PREFIX + name: float(value) for name, value in sample.scores.items()}
