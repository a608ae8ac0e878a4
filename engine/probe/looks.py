"""In which round each weakness was found, by tests that allow a look after every round."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.anytime import drop_e_process, e_benjamini_hochberg
from engine.probe.pairs import Pairs
from engine.runfile.probe import ProbeConfig
from engine.sample import Json
from engine.statistics import Ints, cell_sources

LEVELS = (("class", "kind", "after"), ("class", "kind"), ("kind", "after"), ("kind",))


def found_by_round(pairs: Pairs, rounds: Mapping[str, int], config: ProbeConfig) -> list[Json]:
    """Return the cells that are found after the last round of `rounds`, with the round that found each.

    `rounds` has the round, from 1, of each edit by key. A cell is found where e-BH over all cells with at least
    probe.min_sources rejects "edits cost at most probe.min_drop" at 1 - probe.confidence. Each split key has one vote,
    of its first round: the bandit decides by earlier rounds which edits come, and a key is one piece of evidence.
    """
    if not pairs.keys:
        return []
    of_edit = np.array([rounds[key] for key in pairs.keys])
    columns = {"class": pairs.label, "kind": pairs.kind, "after": pairs.after}
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number in range(1, int(of_edit.max()) + 1):
        seen = np.flatnonzero(of_edit <= number)
        e_values: dict[tuple[Any, ...], tuple[float, int]] = {}
        for level in LEVELS:
            keys, cell = np.unique(
                np.stack([columns[name][seen] for name in level], axis=1), axis=0, return_inverse=True
            )
            clusters = cell_sources(pairs.cluster[seen], cell, len(keys))
            for index in np.flatnonzero(clusters >= config.min_sources):
                name = tuple(zip(level, keys[index].tolist(), strict=True))
                e_values[name] = _e_value(pairs, seen[cell == index], of_edit, config), int(clusters[index])
        flags = e_benjamini_hochberg([e for e, _ in e_values.values()], 1 - config.confidence)
        now = [name for name, is_found in zip(e_values, flags, strict=True) if is_found]
        found = {
            name: {
                "found_in_round": found.get(name, {}).get("found_in_round", number),
                "e_value": e_values[name][0],
                "n_sources": e_values[name][1],
                "num_cells": len(e_values),
            }
            for name in now
        }
    cells: list[Json] = [_names(pairs, dict(name)) | numbers for name, numbers in found.items()]
    return cells


def _e_value(pairs: Pairs, rows: Ints, of_edit: Ints, config: ProbeConfig) -> float:
    """Return the e-value of one cell, a vote for each split key: the mean drop of its edits of its first round."""
    clusters, which = np.unique(pairs.cluster[rows], return_inverse=True)
    first = np.full(len(clusters), np.iinfo(np.int64).max)
    np.minimum.at(first, which, of_edit[rows])
    votes = of_edit[rows] == first[which]
    drop = (pairs.right_unedited - pairs.right_edit)[rows]
    mean = np.bincount(which[votes], drop[votes], len(clusters)) / np.bincount(which[votes], minlength=len(clusters))
    # In the order of the rounds: of these alone it matters which come first.
    return float(drop_e_process(mean[np.argsort(first, kind="stable")], config.min_drop)[-1])


def _names(pairs: Pairs, codes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "class_name": pairs.classes[codes["class"]] if "class" in codes else None,
        "kind": pairs.kinds[codes["kind"]],
        "after": pairs.afters[codes["after"]] if "after" in codes else None,
    }
