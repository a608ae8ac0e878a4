"""The rounds of a run, for the summary and for the page: edits by kind, largest cells, accuracy after each."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.report.drawing.charts import share_bar
from engine.rounds.allocation import Allocation, CellShare
from engine.runfile.run import RoundsConfig
from engine.wording import DASH, count, percent

View = dict[str, Any]
NUM_CELLS = 8
MAX_E_VALUE = 1_000_000
BAR_COLOURS = ("h5", "h4", "h3", "h2", "h1")


def rounds_summary(
    allocations: Mapping[str, Allocation],
    of_shard: Mapping[int, str | None],
    candidates: pa.Table,
    trained: Mapping[str, Any] | None,
    ships: str,
) -> list[View]:
    """Return one object a round: its edits by kind, its largest cells, and the accuracy on validation edits after it.

    `allocations` are those of the rounds from the second on, by SHA-256; `of_shard` is the one in each shard's marker;
    `trained` is reinforce.json. The first round, without an allocation, has the edits of validation sources.
    """
    if not allocations:
        return []
    ordered = sorted(allocations.items(), key=lambda item: item[1].number)
    after = [allocation.edits_accuracy for _, allocation in ordered]
    arms = (trained or {}).get("arms", {})
    after.append(arms.get(ships, {}).get("validation_edits_accuracy"))
    edits = candidates.filter(pc.equal(candidates["role"], "counterfactual"))
    of_edit = pa.array([of_shard.get(shard) or "" for shard in edits["shard"].to_pylist()], pa.string())
    return [
        {
            "round": number,
            **_spent(edits.filter(pc.equal(of_edit, name))),
            "edits_accuracy_after": after[number - 1],
            "num_validation_edits": ordered[0][1].num_edits,
            "shares": dict(allocations[name].by_kind()) if name else {},
            "cells": [asdict(cell) for cell in _largest(allocations[name])] if name else [],
        }
        for number, name in enumerate(["", *(name for name, _ in ordered)], 1)
    ]


def rounds_view(rounds: list[View], config: RoundsConfig, weakness: Mapping[str, Any] | None) -> View | None:
    """Return sentences, a bar of kinds for each round, and the tables of the largest cells; None without rounds."""
    if not rounds:
        return None
    kinds = sorted({kind for each in rounds for kind in each["by_kind"]})
    colours = dict(zip(kinds, [*BAR_COLOURS, *["patient"] * len(kinds)], strict=False))
    names = ["before", *(f"after round {each['round']}" for each in rounds[1:])]
    return {
        "sentence": (
            f"{count(len(rounds))} rounds. The first edited the validation sources evenly, as the run file says. Each "
            "later one edited train sources, its edits allocated by Thompson sampling of their expected gain: the drop "
            "of the true class's probability by such edits of validation sources, for the classifier under test and "
            "then for the one trained on the rounds before, times the share of such edits that the verifier accepts "
            "(posterior means). Each kind keeps at least "
            f"{percent(config.floor, 0)} of a class's edits, one value gets {percent(config.cap, 0)} at most."
        ),
        "accuracy": [(name, percent(each["edits_accuracy_after"])) for name, each in zip(names, rounds, strict=True)],
        "num_validation_edits": count(rounds[0]["num_validation_edits"]),
        "legend": [(f"fill-{colours[kind]}", kind) for kind in kinds],
        "rounds": [_round_view(each, colours) for each in rounds],
        "found": _found((weakness or {}).get("found_by_round", []), (weakness or {}).get("confidence", 0.95)),
    }


def _found(cells: list[View], confidence: float) -> View | None:
    """Return a sentence and rows on the cells that were found, those of the earliest round first."""
    if not cells:
        return None
    ordered = sorted(cells, key=lambda cell: (cell["found_in_round"], -cell["e_value"]))
    by_round = Counter(cell["found_in_round"] for cell in ordered)
    when = ", ".join(f"{count(n)} since round {number}" for number, n in sorted(by_round.items()))
    return {
        "sentence": (
            f"Found so far: {count(len(cells))} of {count(cells[0]['num_cells'])} cells, {when}, at a false discovery "
            f"rate of {percent(1 - confidence, 0)}. Tested by betting on each source's drop (e-BH): valid however "
            "often one looks and wherever the rounds spent their edits."
        ),
        "rows": [
            {
                "edit": f"{cell['class_name'] or 'any class'}: {cell['kind']} to {cell['after'] or 'any value'}",
                "round": cell["found_in_round"],
                "e_value": count(round(cell["e_value"]))
                if cell["e_value"] < MAX_E_VALUE
                else f"> {count(MAX_E_VALUE)}",
                "n_sources": count(cell["n_sources"]),
            }
            for cell in ordered[:NUM_CELLS]
        ],
    }


def _spent(edits: pa.Table) -> View:
    made = Counter(edits["edit_kind"].to_pylist())
    accepted = Counter(edits.filter(pc.fill_null(edits["accepted"], True))["edit_kind"].to_pylist())
    return {
        "edits": edits.num_rows,
        "accepted": sum(accepted.values()),
        "by_kind": {kind: {"edits": n, "accepted": accepted[kind]} for kind, n in sorted(made.items())},
    }


def _largest(allocation: Allocation) -> list[CellShare]:
    return sorted(allocation.cells, key=lambda cell: (-cell.share, cell.class_name, cell.kind, cell.value or ""))[
        :NUM_CELLS
    ]


def _round_view(each: View, colours: Mapping[str, str]) -> View:
    parts = [(kind, found["edits"], colours[kind]) for kind, found in each["by_kind"].items()]
    total = max(1, each["edits"])
    spent = ", ".join(f"{percent(n / total, 0)} on {kind}" for kind, n, _ in parts) or "not made yet"
    return {
        "name": f"Round {each['round']}",
        "spent": f"{count(each['edits'])} edits, {count(each['accepted'])} accepted: {spent}",
        "bar": share_bar([(n, f"fill-{css}") for _, n, css in parts], title=f"Round {each['round']}: {spent}"),
        "cells": [
            {
                "edit": f"{cell['class_name']}: {cell['kind']} to {cell['value'] or 'any other value'}"
                + (f" at {cell['severity']:g}" if cell["severity"] < 1 else ""),
                "share": percent(cell["share"], 0),
                "weakness": f"{percent(cell['weakness'], 0)} ({count(cell['num_probed'])})",
                "accepted": f"{percent(cell['accept_rate'], 0)} ({count(cell['num_tried'])})",
                "gain": percent(cell["gain"], 0),
                "limit": {"cap": "held at the cap", "floor": "lifted to the floor"}.get(cell["limit"], DASH),
            }
            for cell in each["cells"]
        ],
    }
