"""Numbers in words for people: per cent, points, durations, intervals. A dash stands for what is not known."""

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

DASH = "–"
MINUS = "−"
# A narrow no-break space between number and unit.
THIN = "\u202f"


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


def interval(figure: Mapping[str, Any], digits: int = 1) -> str:
    """Return the interval of a share: 79.1 to 86.0."""
    if figure.get("low") is None or figure.get("high") is None:
        return "no interval"
    return f"{100 * figure['low']:.{digits}f} to {100 * figure['high']:.{digits}f}"


def signed_interval(figure: Mapping[str, Any], name: str) -> str:
    """Return the interval of the measure `name` in signed points: −0.4 to +3.1."""
    low, high = figure.get(f"{name}_low"), figure.get(f"{name}_high")
    return "no interval" if low is None or high is None else f"{points(low)} to {points(high)}"


def count(value: int) -> str:
    """Return a whole number with thousands apart: 12 345."""
    return f"{value:,}".replace(",", THIN)


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units: 4 min 12 s."""
    if seconds is None:
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds > 1 else f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plain(value: object) -> str:
    """Return a number of unknown meaning short, text as it is."""
    return DASH if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def words(name: str) -> str:
    """Return an identifier as words: too_dark is "too dark"."""
    return name.replace("_", " ")


def code(text: str) -> Markup:
    """Return text as HTML, with what stands between backticks as code."""
    parts = (
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(text.split("`"))
    )
    return Markup("").join(parts)


def q_value(value: float | None) -> str:
    """Return a q-value: three digits, or "< 0.001"."""
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def score(value: float | None) -> str:
    """Return a score to two digits, "undefined" where there is none."""
    return "undefined" if value is None or math.isnan(value) else f"{value:.2f}".replace("-", MINUS)
