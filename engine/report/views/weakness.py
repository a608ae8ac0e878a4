"""The view of the probe's findings: cells, failure points, phrases, transfer, calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.report.drawing.charts import Line, line_chart
from engine.report.drawing.maps import key_of, weakness_maps
from engine.report.views.no_finding import untested
from engine.wording import count, interval, percent, plain, points, signed_interval

View = dict[str, Any]
NUM_CELLS, NUM_PHRASES, NUM_CURVES = 12, 12, 20
# Colours of the page that lines may have; the dash differs too.
LINE_COLOURS = ("line-1", "line-2", "line-3", "line-4")
ROLE_NAMES = {"source": "originals", "placebo": "placebos", "counterfactual": "accepted edits"}


def weakness_view(weakness: Mapping[str, Any] | None) -> View | None:
    """Return the weakness section, None where nothing was probed."""
    if weakness is None:
        return None
    drop, (maps, scale) = weakness["drop"], weakness_maps(weakness)
    cells = [cell for cell in weakness["cells"] if cell[drop] is not None]
    return {
        "sentence": _sentence(weakness, drop),
        "placebo": _placebo_sentence(weakness),
        "measure": "Placebo-corrected drop of accuracy" if weakness["has_placebos"] else "Drop of accuracy",
        "key": key_of("helps", f"harms, up to {100 * scale:.0f} points", with_help=True),
        "maps": maps,
        "more": f"The first {NUM_CELLS} of {count(weakness['num_cells'])}." if len(cells) > NUM_CELLS else "",
        "cells": [_cell(cell, drop) for cell in cells[:NUM_CELLS]],
        "by_strategy": [_cell(cell, drop) for cell in weakness.get("by_strategy", []) if cell[drop] is not None],
        "failures": _failures(weakness["failure_points"]),
        "phrases": _phrases(weakness["phrases"]),
        "transfers": [_transfer(other, weakness) for other in weakness["transfer"]],
        "calibration": [
            (name, count(found["n"]), percent(found["calibration_error"]), plain(found["nll"]))
            for role, name in ROLE_NAMES.items()
            if (found := weakness["calibration"].get(role)) is not None
        ],
    }


def _cell(cell: Mapping[str, Any], drop: str) -> View:
    """Return a cell with its edit in words, and the named drop with its ends and its interval in words."""
    low, high, between = cell[f"{drop}_low"], cell[f"{drop}_high"], signed_interval(cell, drop)
    title = f"drop {points(cell[drop])} points, {between}"
    drawn = {"drop": cell[drop], "low": low, "high": high, "range": between, "title": title}
    return {**cell, **drawn, "edit": _edit(cell)}


def _sentence(weakness: Mapping[str, Any], drop: str) -> str:
    if (nothing := untested(weakness)) is not None:
        return nothing
    overall = weakness["overall"]
    # Runs of versions without probe.min_drop tested against 0.
    least = 100 * weakness.get("min_drop", 0)
    more = f", by more than {least:g} points" if least else ""
    return (
        f"{count(weakness['num_cells'])} cells of class, edit and value were tested, and "
        f"{count(weakness['num_significant'])} hurt significantly{more}. "
        f"In {count(weakness['num_confirmed'])} of these the "
        "interval on the scoring half, which had no part in ranking the cells, is above 0. Over all edits the drop is "
        f"{points(overall.get(drop))} points ({signed_interval(overall, drop)})."
    )


def _placebo_sentence(weakness: Mapping[str, Any]) -> str:
    overall = weakness["overall"]
    if overall is None:
        return ""
    if not weakness["has_placebos"]:
        return "No tested edit has an accepted placebo beside it: the drop includes the effect of the editor alone."
    if overall.get("artefact_drop") is None:
        return ""
    return (
        f"An edit that changes nothing (the placebo) costs {points(overall['artefact_drop'])} points "
        f"({signed_interval(overall, 'artefact_drop')}); every drop below is measured against that placebo."
    )


def _failures(curves: Sequence[Mapping[str, Any]]) -> View | None:
    """Return the survival chart, one line for each kind, and the table of medians and drops by severity."""
    if not curves:
        return None
    kinds = [curve for curve in curves if curve["after"] is None]
    lines = [
        Line(css=LINE_COLOURS[place % len(LINE_COLOURS)], points=_steps(curve["steps"]))
        for place, curve in enumerate(kinds)
    ]
    severities = sorted({step["severity"] for curve in curves for step in curve["steps"]})
    return {
        "chart": line_chart(
            lines,
            title="Share of edits that did not flip the classifier yet, by severity",
            y_label="not flipped yet",
            x_label="severity",
            percent=True,
        ),
        "legend": [(place, lines[place].css, curve["kind"]) for place, curve in enumerate(kinds)],
        "severities": [plain(severity) for severity in severities],
        "rows": [_curve(curve, severities) for curve in curves[:NUM_CURVES]],
        "more": f"The first {NUM_CURVES} of {count(len(curves))}." if len(curves) > NUM_CURVES else "",
    }


def _steps(steps: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return the corners of a survival curve, which starts with 1 at severity 0."""
    corners, alive = [(0.0, 1.0)], 1.0
    for step in steps:
        if step["survival"] is None:
            break
        corners += [(step["severity"], alive), (step["severity"], step["survival"])]
        alive = step["survival"]
    return corners


def _curve(curve: Mapping[str, Any], severities: Sequence[float]) -> View:
    steps = {step["severity"]: step for step in curve["steps"]}
    last = plain(severities[-1])
    ends = [plain(curve[end]) if curve[end] is not None else f"beyond {last}" for end in ("median_low", "median_high")]
    return {
        "edit": _edit(curve),
        "n_series": count(curve["n_series"]),
        "median": plain(curve["median"]) if curve["median"] is not None else "not reached",
        "range": f"{ends[0]} to {ends[1]}",
        "never_failed": percent(curve["never_failed"] / curve["n_series"], 0) if curve["n_series"] else percent(None),
        "drops": [points(steps[at]["accuracy_drop"] if at in steps else None) for at in severities],
    }


def _phrases(found: Mapping[str, Any]) -> View | None:
    phrases = [phrase for phrase in found["phrases"] if phrase["flip_rate"] is not None]
    if not phrases:
        return None
    return {
        "more": f"The first {NUM_PHRASES} of {count(found['num_phrases'])}." if len(phrases) > NUM_PHRASES else "",
        "rows": [
            {
                **phrase,
                "low": phrase["flip_rate_low"],
                "high": phrase["flip_rate_high"],
                "range": interval(phrase, 0, "flip_rate"),
                "title": f"{percent(phrase['flip_rate'], 0)} of {phrase['n_sources']} sources flip",
            }
            for phrase in phrases[:NUM_PHRASES]
        ],
    }


def _transfer(other: Mapping[str, Any], weakness: Mapping[str, Any]) -> View:
    shared, here = other["shared_flips"], {_place(cell): cell for cell in weakness["cells"]}
    rows = [cell for cell in other["cells"] if _place(cell) in here and cell["drop"] is not None][:NUM_CELLS]
    sentence = "No cell is significant, so there is none to look up here."
    if other["num_cells"]:
        held = count(other["num_significant"])
        sentence = f"Of the {count(other['num_cells'])} significant cells, {held} are significant here too."
    if shared["share"] is not None:
        sentence += (
            f" Of the {count(shared['n_flips'])} edits that flip the classifier under test, {percent(shared['share'])} "
            f"({interval(shared, name='share')}) flip this one as well; {percent(shared['expected'])} would if "
            "the two were independent."
        )
    return {
        "name": other["classifier"],
        "sentence": sentence,
        "more": f"The first {len(rows)} of {count(other['num_cells'])}." if len(rows) < other["num_cells"] else "",
        "rows": [_cell(cell, "drop") | {"here": points(here[_place(cell)][weakness["drop"]])} for cell in rows],
    }


def _place(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return cell["level"], cell["class_name"], cell["kind"], cell["after"]


def _edit(cell: Mapping[str, Any]) -> str:
    return f"{cell['kind']}: {cell['after'] or 'any'}"
