"""Inline SVG: interval tracks, dumbbells, share bars, line charts. Colours and fonts are the page's CSS."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

# Drawn around (0, 0): arms differ by shape as well as by colour.
MARKS = {
    "circle": '<circle r="5"/>',
    "square": '<path d="M-4.6 -4.6H4.6V4.6H-4.6Z"/>',
    "triangle": '<path d="M0 -5.8L6 4.6H-6Z"/>',
    "wedge": '<path d="M0 5.8L6 -4.6H-6Z"/>',
    "bar": '<path d="M-2 -6H2V6H-2Z"/>',
    "plus": '<path d="M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z"/>',
    "diamond": '<path d="M0 -6.4L6.4 0L0 6.4L-6.4 0Z"/>',
    "star": '<path d="M0 -7L1.9 -2.2L7 -2.2L2.9 1L4.4 6L0 3L-4.4 6L-2.9 1L-7 -2.2L-1.9 -2.2Z"/>',
    "hourglass": '<path d="M-5.4 -5.8H5.4L0 0L5.4 5.8H-5.4L0 0Z"/>',
    "dash": '<path d="M-6 -2H6V2H-6Z"/>',
    "cross": '<path d="M-4.6 -6L0 -1.6L4.6 -6L6 -4.6L1.6 0L6 4.6L4.6 6L0 1.6L-4.6 6L-6 4.6L-1.6 0L-6 -4.6Z"/>',
    "ring": '<path fill-rule="evenodd" d="M0 -6A6 6 0 0 1 0 6A6 6 0 0 1 0 -6ZM0 -3A3 3 0 0 0 0 3A3 3 0 0 0 0 -3Z"/>',
    "pentagon": '<path d="M0 -6.4L6.1 -2L3.8 5.2H-3.8L-6.1 -2Z"/>',
    "chevron": '<path d="M-6 -1L0 -6L6 -1V4L0 -1L-6 4Z"/>',
}
DASHES = ("none", "6 4", "2 4", "10 3 2 3")

# A line chart in user units: near the width of a phone, so that its text is never drawn small.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 210, 46, 20, 24, 36


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart: its CSS class, its (x, y) points in the order they are joined, and one to mark."""

    css: str
    points: Sequence[tuple[float, float]]
    highlight: tuple[float, float] | None = None


def interval_track(
    value: float,
    low: float,
    high: float,
    *,
    title: str,
    css: str = "",
    mark: str = "circle",
    span: tuple[float, float] = (0.0, 1.0),
) -> Markup:
    """Draw a value with its interval on a scale from span[0] to span[1]; stretches to the width it is given."""
    at, start, end = (_percent(number, span) for number in (value, low, high))
    zero = _percent(0.0, span)
    origin = f'<line class="zero" x1="{zero}%" x2="{zero}%" y1="2" y2="18"/>' if span[0] < 0 < span[1] else ""
    grid = "".join(f'<line class="grid" x1="{x}%" x2="{x}%" y1="6" y2="14"/>' for x in (0, 25, 50, 75, 100))
    return Markup(  # nosec B704 # texts are escaped
        f'<svg class="track {escape(css)}" width="100%" height="20" role="img"><title>{escape(title)}</title>'
        f'<line class="rail" x1="0%" x2="100%" y1="10" y2="10"/>{grid}{origin}'
        f'<rect class="range" x="{start}%" width="{_number(max(end - start, 0.4))}%" y="6.5" height="7" rx="3.5"/>'
        f'<svg class="mark" x="{at}%" y="10" overflow="visible">{MARKS[mark]}</svg></svg>'
    )


def dumbbell(
    ends: Sequence[tuple[float, str, str]],
    *,
    line: tuple[float, float],
    title: str,
    css: str = "",
    span: tuple[float, float] = (0.0, 1.0),
) -> Markup:
    """Draw values (value, CSS class, mark) on one scale, and a thick line over the range `line` of two of them."""
    start, stop, zero = (_percent(number, span) for number in (*line, 0.0))
    marks = "".join(
        f'<g class="{escape(look)}"><svg class="mark" x="{_percent(value, span)}%" y="11" overflow="visible">'
        f"{MARKS[mark]}</svg></g>"
        for value, look, mark in ends
    )
    return Markup(  # nosec B704 # texts are escaped
        f'<svg class="track dumbbell {escape(css)}" width="100%" height="22" role="img"><title>{escape(title)}</title>'
        f'<line class="rail" x1="0%" x2="100%" y1="11" y2="11"/><line class="zero" x1="{zero}%" x2="{zero}%" y1="3" '
        f'y2="19"/><line class="bar" x1="{start}%" x2="{stop}%" y1="11" y2="11"/>{marks}</svg>'
    )


def share_bar(parts: Sequence[tuple[float, str]], *, title: str) -> Markup:
    """Draw parts (value, CSS class) of a whole as one stacked bar."""
    total = math.fsum(value for value, _ in parts) or 1.0
    drawn, start = [], 0.0
    for value, css in parts:
        width = 100 * value / total
        drawn.append(f'<rect class="{escape(css)}" x="{_number(start)}%" width="{_number(width)}%" y="0" height="12"/>')
        start += width
    return Markup(  # nosec B704 # texts are escaped
        f'<svg class="share" width="100%" height="12" role="img"><title>{escape(title)}</title>{"".join(drawn)}</svg>'
    )


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    y_label: str,
    x_label: str = "step",
    percent: bool = False,
    from_zero: bool = True,
) -> Markup:
    """Draw lines over common axes with ticks; without any point: empty.

    `percent` labels y in per cent, and x too where it does not start `from_zero`.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if not xs:
        return Markup("")
    x_ticks, y_ticks = ticks(min(0.0, *xs) if from_zero else min(xs), max(xs), 5), ticks(min(ys), max(ys), 5)
    x_span, y_span = (x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1])
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>']
    for tick in y_ticks:
        y, label = _y_at(tick, y_span), _label(tick, percent)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">{label}</text>')
    for tick in x_ticks:
        x, label = _x_at(tick, x_span), _label(tick, percent and not from_zero)
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>')
    parts.append(f'<text class="axis" x="4" y="12">{escape(y_label)}</text>')
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    for index, line in enumerate(lines):
        places = [((x, y), _x_at(x, x_span), _y_at(y, y_span)) for x, y in line.points]
        path, css = "L".join(f"{x} {y}" for _, x, y in places), escape(line.css)
        parts.append(f'<path class="line {css}" d="M{path}" stroke-dasharray="{DASHES[index % len(DASHES)]}"/>')
        chosen = [place for place in places if place[0] == line.highlight] if len(places) > 1 else places
        parts.extend(f'<circle class="dot {css}" cx="{x}" cy="{y}" r="4.5"/>' for _, x, y in chosen)
    return Markup("".join([*parts, "</svg>"]))  # nosec B704 # texts are escaped


def line_sample(index: int, css: str) -> Markup:
    """Draw the legend's sample of the index-th line of a chart."""
    dash = DASHES[index % len(DASHES)]
    return Markup(  # nosec B704 # texts are escaped
        f'<svg class="sample" width="34" height="10" aria-hidden="true">'
        f'<path class="line {escape(css)}" d="M1 5H33" stroke-dasharray="{dash}"/></svg>'
    )


def mark_sample(mark: str, css: str) -> Markup:
    """Draw the legend's sample of an arm's mark."""
    return Markup(  # nosec B704 # texts are escaped
        f'<svg class="sample {escape(css)}" width="16" height="16" aria-hidden="true">'
        f'<svg class="mark" x="8" y="8" overflow="visible">{MARKS[mark]}</svg></svg>'
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers that enclose [low, high]."""
    if high - low < 1e-9:
        margin = max(abs(high), 1e-3) * 0.1
        low, high = low - margin, high + margin
    rough = (high - low) / max(count - 1, 1)
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def heat_level(value: float, span: tuple[float, float], levels: int) -> int:
    """Return the heat map level 0 .. levels - 1 of a value; values outside the span take the end level."""
    return min(int(_share(value, span) * levels), levels - 1)


def _label(tick: float, percent: bool) -> str:
    return f"{100 * tick:.4g}%" if percent else f"{tick:.4g}"


def _x_at(x: float, span: tuple[float, float]) -> str:
    return _number(LEFT + (WIDTH - LEFT - RIGHT) * _share(x, span))


def _y_at(y: float, span: tuple[float, float]) -> str:
    return _number(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(y, span))


def _share(value: float, span: tuple[float, float]) -> float:
    return min(max((value - span[0]) / (span[1] - span[0]), 0.0), 1.0)


def _percent(value: float, span: tuple[float, float]) -> float:
    return round(100 * _share(value, span), 2)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
