"""One page of what `make zoo-eval` found: curves, a hundred random rows, every figure."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.figures.figures import Figure, cells, describe
from engine.report.drawing.charts import Line, line_chart, line_sample
from engine.report.page import TEMPLATES

HERE = Path(__file__).parent
STYLE = TEMPLATES / "style.css"
COLOURS = ("reinforced", "real-only", "patient")
Points = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn chart: its title, its SVG and (name, sample of its line) for each line."""

    title: str
    svg: Markup
    names: list[tuple[str, Markup]]


def exam_page(figures: Sequence[Figure], on: dict[str, object], roc: Points, sheet: bytes | None) -> str:
    """Return the page as HTML that needs no other file."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.jinja").render(
        style=Markup(STYLE.read_text()),  # nosec B704 # our own file
        machine=describe(on),
        charts=list(_charts(figures, roc)),
        sheet=base64.b64encode(sheet).decode() if sheet else "",
        rows=[cells(figure) for figure in figures],
    )


CURVES = {
    "background": ("new_background", "garment_kept", "colour_kept"),
    "colour": ("new_colour", "garment_kept", "background_kept"),
    "garment": ("new_garment", "colour_kept", "background_kept"),
}


def _charts(figures: Sequence[Figure], roc: Points) -> list[Chart]:
    charts = []
    if roc:
        charts.append(
            _chart("Verifier: recall of wrong images against refusals of right ones", "false refusals", {"recall": roc})
        )
    for kind, names in CURVES.items():
        for knob in ("steps", "guidance"):
            lines = {
                name.replace("_", " "): _series(figures, rf"editor\.curve\.{kind}\.{knob}_([\d.]+)\.{name}")
                for name in names
            }
            charts.append(_chart(f"{kind.capitalize()} edits against {knob}", knob, lines))
    lines = {
        name: _series(figures, rf"realism\.texture\.curve\.{knob}_([\d.]+)")
        for name, knob in (("UniPC", "steps"), ("DDIM", "ddim"))
    }
    charts.append(_chart("How much smoother than true ones new backgrounds are: KID against steps", "steps", lines))
    lines = {
        kind: _series(figures, rf"editor\.severity\.{kind}\.distance_at_([\d.]+)")
        for kind in ("background", "lighting")
    }
    charts.append(_chart("Distance from the source against severity", "severity", lines))
    return [chart for chart in charts if chart.svg]


def _series(figures: Sequence[Figure], pattern: str) -> Points:
    found = [(re.fullmatch(pattern, figure.name), figure.value) for figure in figures]
    return sorted((float(match[1]), value) for match, value in found if match)


def _chart(title: str, x_label: str, lines: dict[str, Points]) -> Chart:
    drawn = [Line(css=css, points=points) for css, points in zip(COLOURS, lines.values(), strict=False) if points]
    svg = line_chart(drawn, title=title, y_label="", x_label=x_label)
    names = [(name, line_sample(index, css)) for index, (name, css) in enumerate(zip(lines, COLOURS, strict=False))]
    return Chart(title=title, svg=svg, names=names)
