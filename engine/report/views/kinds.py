"""The drops of each kind of edit before and after training: for the summary, the page's dumbbells and the verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.report.drawing.charts import dumbbell, ticks
from engine.report.views.arms import ArmLook
from engine.runfile.arms import BASE
from engine.wording import DASH, count, points, signed_interval

View = dict[str, Any]
NUM_VALUES = 8
NUMBERS = tuple(f"{name}{end}" for name in ("drop", "change") for end in ("", "_low", "_high"))


def edits_by_kind(evaluation: Mapping[str, Any] | None) -> list[View]:
    """Return one object for each kind of edit, and for each of its values: its numbers of sources, and drops by arm."""
    found: dict[tuple[str, str | None], View] = {}
    for arm, scored in (evaluation or {"arms": {}})["arms"].items():
        for row in scored.get("edits_by_kind", []):
            fields = {name: row[name] for name in ("kind", "value", "n_sources", "n_edits")}
            cell = found.setdefault((row["kind"], row["value"]), fields | {"arms": {}})
            cell["arms"][arm] = {name: row.get(name) for name in NUMBERS}
    return list(found.values())


def worst_change(rows: Sequence[Mapping[str, Any]], ships: str) -> str | None:
    """Return one sentence on the kind whose drop changed worst, a warning where it clearly grew; None without any."""
    changes = {
        row["kind"]: row["arms"][ships]
        for row in rows
        if row["value"] is None and row["arms"].get(ships, {}).get("change") is not None
    }
    if not changes:
        return None
    kind = max(changes, key=lambda name: changes[name]["change"])
    found = changes[kind]
    size = f"{points(found['change'])} points ({signed_interval(found, 'change')})"
    if found["change_low"] > 0:
        return f"Warning: curing one habit made another: the drop by edits of {kind} changed by {size}."
    of = f"of the {count(len(changes))} kinds of edit" if len(changes) > 1 else "on the only kind of edit"
    return f"The worst change {of}: the drop by edits of {kind} changed by {size}."


def kinds_view(rows: Sequence[Mapping[str, Any]], ships: str, looks: Mapping[str, ArmLook]) -> View | None:
    """Return the dumbbells of each kind and of its values with the largest drops, over one scale; None without arms."""
    if not any(ships in row["arms"] for row in rows):
        return None
    shown = _shown(rows)
    drops = [found["drop"] for row in shown for found in row["arms"].values()]
    scale = ticks(min(0.0, *drops), max(0.05, *drops), 5)
    return {
        "scale": [(100 * (tick - scale[0]) / (scale[-1] - scale[0]), points(tick, 0).lstrip("+")) for tick in scale],
        "rows": [_row(row, ships, looks, (scale[0], scale[-1])) for row in shown],
        "num_values": NUM_VALUES,
    }


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return each kind, the largest drop of the base classifier first, and after it its values in the same order."""

    def first(row: Mapping[str, Any]) -> float:
        return -float(row["arms"].get(BASE, {}).get("drop") or 0.0)

    shown: list[Mapping[str, Any]] = []
    for kind in sorted((row for row in rows if row["value"] is None), key=first):
        values = [row for row in rows if row["kind"] == kind["kind"] and row["value"] is not None]
        shown += [kind, *sorted(values, key=first)[:NUM_VALUES]]
    return [row for row in shown if all(found["drop"] is not None for found in row["arms"].values())]


def _row(row: Mapping[str, Any], ships: str, looks: Mapping[str, ArmLook], span: tuple[float, float]) -> View:
    arms = [(looks[arm], found["drop"]) for arm, found in row["arms"].items()]
    name = row["value"] or row["kind"]
    title = f"{name}: " + ", ".join(f"{look.name} {points(drop)}" for look, drop in arms)
    before, after = (row["arms"].get(arm, {}) for arm in (BASE, ships))
    ends = [found["drop"] for found in (before, after) if found]
    has_grown = (after.get("change_low") or 0) > 0
    return {
        "name": name,
        "is_kind": row["value"] is None,
        "n_sources": row["n_sources"],
        "before": points(before.get("drop")),
        "after": points(after.get("drop")),
        "change": points(after.get("change")),
        "range": signed_interval(after, "change") if after else DASH,
        "has_grown": has_grown,
        "picture": dumbbell(
            [(drop, look.css, look.mark) for look, drop in arms],
            line=(min(ends), max(ends)),
            css="grown" if has_grown else "",
            title=title,
            span=span,
        ),
    }
