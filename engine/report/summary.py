"""Build summary.json: every number of the page, and no other."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.canonical import as_json
from engine.probe.attribution import Attribution
from engine.report.domain import domain_of
from engine.report.drawing.maps import group_name, shown_cells
from engine.report.pictures import edit_label
from engine.report.results import Content, Results
from engine.report.rows import Picture, PictureRow
from engine.report.shown import Shown
from engine.report.views.advice import next_steps, verdict_reasons
from engine.report.views.kinds import edits_by_kind
from engine.report.views.rounds import rounds_summary
from engine.sample import Sample
from engine.shards.marker import add_counts
from engine.shards.record import SCORE
from engine.statistics import wilson_interval

ENDS = ("low", "high")
NOTHING = Shown(rows=(), accepted=(), rejected=(), places={}, sizes=())
NO_MAPS: Mapping[str, Mapping[str, Attribution]] = {}
# JSON content, described by engine/report/schema.py.
Summary = dict[str, Any]


def build_summary(
    results: Results, shown: Shown = NOTHING, maps: Mapping[str, Mapping[str, Attribution]] = NO_MAPS
) -> Summary:
    """Return the summary of a run, null or empty for missing results. `maps` are by arm and edit key."""
    reinforce, domain = results.reinforce or {}, domain_of(results.candidates, shown.sizes, results.run)
    summary: Summary = {
        "name": results.info.name,
        "verdict": reinforce.get("verdict", "none yet"),
        "ships": results.run.reinforce.ships,
        "reasons": [],
        "next_steps": [],
        **_headline_figures(results.evaluation),
        "comparisons": list((results.evaluation or {}).get("comparisons", [])),
        "edits_by_kind": edits_by_kind(results.evaluation),
        "confidence": results.run.probe.confidence,
        "counts": _counts(results),
        "rates": _rates(results),
        "seconds": dict(results.seconds),
        "seconds_by_stage": _stage_seconds(results),
        "weakness": _weakness(results.weakness),
        "rounds": rounds_summary(
            results.allocations,
            {index: marker.allocation for index, marker in results.markers.items()},
            results.candidates,
            results.reinforce,
            results.run.reinforce.ships,
        ),
        "groups": _groups(results.evaluation),
        "training": dict(results.reinforce) if results.reinforce else None,
        "accept_rate": accept_rates(results.candidates),
        "domain": {**asdict(domain), "sentence": domain.sentence(), "warnings": domain.warnings()},
        "pictures": [_row(row, maps) for row in shown.rows],
        "examples": {"accepted": [*map(_example, shown.accepted)], "rejected": [*map(_example, shown.rejected)]},
        "plan_digest": results.info.digest,
        "revision": results.info.revision,
        "versions": dict(results.info.versions),
    }
    summary["reasons"] = verdict_reasons(summary, results.run)
    summary["next_steps"] = next_steps(summary, results.run)
    result: Summary = as_json(summary)
    return result


def summary_bytes(summary: Summary) -> bytes:
    """Return the summary as indented JSON, fields in their order."""
    return (json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def share(count: int, n: int, confidence: float = 0.95) -> dict[str, Any]:
    """Return a share with its Wilson interval as value, low, high and n."""
    low, high = wilson_interval(count, n, confidence)
    return {"value": count / n if n else None, "low": low, "high": high, "n": n}


def _counts(results: Results) -> Summary:
    counts = add_counts(results.markers)
    return {
        "shards": len(results.markers),
        "planned_shards": results.info.num_shards,
        **asdict(counts),
        "rejected": dict(Counter(counts.rejected).most_common()),
        "quarantined": dict(Counter(counts.quarantined).most_common()),
    }


def _rates(results: Results) -> Summary:
    """Return rates over the wall-clock time of the generate phase, null where it was not timed."""
    counts, seconds = add_counts(results.markers), results.seconds.get("generate")
    timed = bool(seconds) and bool(counts.candidates)
    return {
        "accepted_share": counts.accepted / counts.candidates if counts.candidates else None,
        "candidates_per_second": counts.candidates / seconds if timed and seconds else None,
        "seconds_per_accepted": seconds / counts.accepted if timed and seconds and counts.accepted else None,
        "price_per_accepted": _price(results) / counts.accepted if _price(results) and counts.accepted else None,
    }


def _price(results: Results) -> float:
    """Return the price of the GPU time that stages used, idle time excluded; 0 without a price."""
    run, seconds = results.run, _stage_seconds(results)
    gpu_seconds = sum(
        run.stages[group[0]].placement.num_gpus * seconds.get(name, 0.0)
        for group in run.stage_groups()
        for name in group
    )
    return gpu_seconds / 3600 * (run.report.gpu_price_per_hour or 0.0)


def _stage_seconds(results: Results) -> dict[str, float]:
    total: Counter[str] = Counter()
    for marker in results.markers.values():
        total.update(marker.seconds)
    return dict(total.most_common())


def accept_rates(candidates: pa.Table) -> Summary:
    """Return accept rates by kind, failure rates by check, also without others, and medians by score, of the edits."""
    edits = candidates.filter(pc.equal(candidates["role"], "counterfactual"))
    accepted = pc.fill_null(edits["accepted"], True).to_numpy(zero_copy_only=False).astype(bool)
    kinds = Counter(edits["edit_kind"].to_pylist())
    kept = Counter(edits.filter(pa.array(accepted))["edit_kind"].to_pylist())
    reasons = [tuple(dict.fromkeys(found or ())) for found in edits["reasons"].to_pylist()]
    failed = Counter(reason for found in reasons for reason in found)
    alone = Counter(found[0] for found in reasons if len(found) == 1)
    return {
        "by_kind": [{"name": kind, **share(kept[kind], n)} for kind, n in kinds.most_common()],
        "by_check": [{"name": name, **share(n, edits.num_rows)} for name, n in failed.most_common()],
        "by_check_alone": [{"name": name, **share(n, edits.num_rows)} for name, n in alone.most_common()],
        "by_score": [
            {
                "name": name.removeprefix(SCORE),
                "accepted_median": _median(edits[name], accepted),
                "rejected_median": _median(edits[name], ~accepted),
            }
            for name in edits.column_names
            if name.startswith(SCORE)
        ],
    }


def _median(column: pa.ChunkedArray, chosen: "np.ndarray[Any, np.dtype[np.bool_]]") -> float | None:
    values = column.to_numpy().astype(np.float64)[chosen]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None


def _headline_figures(evaluation: Content | None) -> Summary:
    """Return worst-group and conflict accuracy on the shifted set, and accuracy on the biased test set, by arm."""
    arms = evaluation["arms"] if evaluation else {}
    return {
        "worst_group_accuracy": {arm: _figure(found["shifted"].get("worst_group")) for arm, found in arms.items()},
        "conflict_accuracy": {arm: _figure(found["shifted"].get("conflict")) for arm, found in arms.items()},
        "accuracy_biased": {arm: _figure(found["test"]) for arm, found in arms.items()},
    }


def _figure(measured: Content | None) -> Summary | None:
    """Return an accuracy as value, low, high and n; of the worst group with its name and the number of groups."""
    if measured is None:
        return None
    figure = {"value": measured["accuracy"], "low": measured["low"], "high": measured["high"], "n": measured["n"]}
    of_groups = {"num_groups": measured["num_groups"]} if "num_groups" in measured else {}
    return figure | ({"group": group_name(measured)} if "values" in measured else {}) | of_groups


def _groups(evaluation: Content | None) -> Summary | None:
    if evaluation is None:
        return None
    arms = {arm: found["shifted"] for arm, found in evaluation["arms"].items()}
    return {
        "group_by": evaluation.get("group_by", []),
        "dominant": evaluation.get("dominant", {}),
        "arms": {arm: report["groups"] for arm, report in arms.items()},
        "adjusted_average": {
            arm: {"value": report["adjusted_average"], **{end: report[f"adjusted_average_{end}"] for end in ENDS}}
            for arm, report in arms.items()
            if report.get("adjusted_average") is not None
        },
    }


def _weakness(weakness: Content | None) -> Summary | None:
    """Return weakness.json with the shown cells only, and counts of all.

    A significant cell is confirmed where its interval on the scoring half is above 0.
    """
    if weakness is None:
        return None
    drop = weakness["drop"]
    return {
        **weakness,
        "num_cells": len(weakness["cells"]),
        "num_significant": sum(cell["significant"] for cell in weakness["cells"]),
        "num_confirmed": sum(cell["significant"] and (cell[f"{drop}_low"] or 0) > 0 for cell in weakness["cells"]),
        "cells": shown_cells(weakness),
    }


def _row(row: PictureRow, maps: Mapping[str, Mapping[str, Attribution]]) -> Summary:
    source = row.source.sample
    return {
        "source_key": source.key,
        "class_name": source.class_name,
        "caption": source.caption,
        "split": source.split,
        "flips": len(row.flips()),
        "cures": len(row.repairs()),
        "pictures": [_picture(picture, maps) for picture in row.pictures],
    }


def _picture(picture: Picture, maps: Mapping[str, Mapping[str, Attribution]]) -> Summary:
    return {
        **_example(picture.sample),
        "predictions": dict(picture.guesses),
        "attribution": {
            arm: _attribution(found[picture.sample.key]) for arm, found in maps.items() if picture.sample.key in found
        },
    }


def _attribution(found: Attribution) -> Summary:
    """Return the totals of a map; the map itself is in attribution/<digest>.json."""
    return {
        "control": found.control,
        "p_control": found.p_control,
        "p_edit": found.p_edit,
        "drop": found.drop,
        "sum_of_cells": found.total,
    }


def _example(sample: Sample) -> Summary:
    label = edit_label(sample)
    return {
        "key": sample.key,
        "role": sample.role,
        "class_name": sample.class_name,
        "label": label,
        "alt": f"{sample.class_name}, {label}",
        "accepted": None if sample.verdict is None else sample.verdict.accepted,
        "reasons": list(sample.verdict.reasons) if sample.verdict else [],
        "scores": dict(sample.scores),
    }
