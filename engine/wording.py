"""Numbers and lists as text for people: percentages, points, durations, sizes, intervals. A dash means unknown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

DASH = "–"
MINUS = "−"
# A narrow no-break space between number and unit.
THIN = "\u202f"
NAMES_SHOWN = 5


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as per cent: 83.4 %."""
    return DASH if value is None else f"{100 * value:.{digits}f}{THIN}%"


def points(value: float | None, digits: int = 1) -> str:
    """Return a difference of shares as signed points: +41.2."""
    if value is None:
        return DASH
    # Twice: 100 * 0.0055 is a little less than 0.55.
    rounded = round(round(100 * value, 9), digits)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def interval(figure: Mapping[str, Any], digits: int = 1, name: str = "") -> str:
    """Return the interval of a share, of the measure `name` where it is given: 79.1 to 86.0."""
    low, high = (figure.get(f"{name}_{end}" if name else end) for end in ("low", "high"))
    return "no interval" if low is None or high is None else f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def signed_interval(figure: Mapping[str, Any], name: str) -> str:
    """Return the interval of the measure `name` in signed points: −0.4 to +3.1."""
    low, high = figure.get(f"{name}_low"), figure.get(f"{name}_high")
    return "no interval" if low is None or high is None else f"{points(low)} to {points(high)}"


def count(value: int) -> str:
    """Return a whole number with its thousands separated: 12 345."""
    return f"{value:,}".replace(",", THIN)


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units: 0.42 s, 12 s, 4 min 12 s, 2 h 5 min."""
    if seconds is None:
        return DASH
    whole = round(seconds)
    if whole < 60:
        return f"{round(seconds, 3):.2g} s" if seconds < 10 else f"{whole} s"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(size_bytes: float) -> str:
    """Return a number of bytes in decimal units: 12 B, 4.2 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def plain(value: object) -> str:
    """Return a number with four significant digits, text unchanged."""
    return DASH if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def words(name: str) -> str:
    """Return an identifier as words: too_dark is "too dark"."""
    return name.replace("_", " ")


def q_value(value: float | None) -> str:
    """Return a q-value: three digits, or "< 0.001"."""
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def score(value: float | None) -> str:
    """Return a score to two digits, "undefined" where there is none."""
    return "undefined" if value is None or math.isnan(value) else f"{value:.2f}".replace("-", MINUS)


def name_some(names: Sequence[str]) -> str:
    """Return the first NAMES_SHOWN names, quoted, and the number of the others."""
    shown = ", ".join(repr(name) for name in names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
