"""What a probe could have found, in words: nothing was tested, too few sources for a test, or no weakness."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.statistics import paired_test
from engine.wording import count, percent

# Below this accuracy on untouched sources there is little that an edit could break.
MIN_ACCURACY = 0.5


def untested(weakness: Mapping[str, Any]) -> str | None:
    """Return why no cell of the weakness table was tested, None where one was."""
    overall = weakness["overall"]
    if overall is None:
        return (
            "Nothing was tested: no edit was accepted (edits that were drawn with the classifier's answers do not "
            "count), so this says nothing about the classifier."
        )
    if weakness["cells"] or weakness["by_kind"]:
        return None
    return (
        f"Too few to test: {_edits(overall)} were accepted, and no class, kind or value of an edit has the "
        f"{weakness['min_sources']} sources that probe.min_sources asks for, so this says nothing about the classifier."
    )


def no_weakness(weakness: Mapping[str, Any]) -> str:
    """Return the finding of a probe without a significant cell, and the drop that it could have found at best."""
    if (nothing := untested(weakness)) is not None:
        return nothing
    # Runs of versions without probe.min_drop tested against 0.
    overall, min_drop = weakness["overall"], weakness.get("min_drop", 0.0)
    num_tests = weakness.get("num_cells", len(weakness["cells"])) + len(weakness["by_kind"])
    num_sources = max(cell["n_tested_sources"] for cell in (*weakness["cells"], *weakness["by_kind"]))
    drop = smallest_drop(num_sources, min_drop, weakness["confidence"])
    at_best = f"no drop below {100 * drop:.0f} points could have been found" if drop else "none could have been found"
    accuracy = overall["accuracy_source"]
    is_poor = accuracy is not None and accuracy < MIN_ACCURACY
    poor = f" It is right on only {percent(accuracy)} of these sources untouched, so edits have little to cost."
    return (
        f"No edit clearly costs more than {100 * min_drop:g} points of accuracy: {count(num_tests)} cells of class, "
        f"kind and value were tested on {_edits(overall)}. With at most {count(num_sources)} sources in a cell "
        f"{at_best}.{poor if is_poor else ''}"
    )


def smallest_drop(num_sources: int, min_drop: float, confidence: float) -> float | None:
    """Return the smallest drop of accuracy that is significant with so many sources and an edit each, None for none.

    Nothing is repaired, and no other cell is tested: with either it takes a larger drop.
    """

    def is_significant(losses: int) -> bool:
        net = -(np.arange(num_sources) < losses).astype(np.float64)
        return paired_test(net, np.full(num_sources, min_drop)) <= 1 - confidence

    low, high = 0, num_sources
    if not is_significant(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_significant(middle) else (middle, high)
    return high / num_sources


def _edits(overall: Mapping[str, Any]) -> str:
    edits, sources = overall["n_edits"], overall["n_sources"]
    return f"{count(edits)} edit{'s' * (edits != 1)} of {count(sources)} source{'s' * (sources != 1)}"
