"""Charts: well-formed SVG, values where the scale says, nothing unescaped."""

import xml.etree.ElementTree as ET

import pytest

from engine.report.drawing.charts import Line, heat_level, interval_track, line_chart, share_bar, ticks


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def test_a_track_puts_value_and_interval_where_the_scale_says() -> None:
    svg = parse(interval_track(0.5, 0.25, 0.75, title="half"))
    (span,) = svg.findall("rect")
    (mark,) = svg.findall("svg")
    assert (span.get("x"), span.get("width"), mark.get("x")) == ("25.0%", "50%", "50.0%")


def test_a_track_of_differences_marks_zero_in_its_middle() -> None:
    svg = parse(interval_track(1.0, 0.5, 1.0, title="drop", span=(-1, 1)))
    assert [line.get("x1") for line in svg.findall("line") if line.get("class") == "zero"] == ["50.0%"]
    assert svg.find("svg").get("x") == "100.0%"  # type: ignore[union-attr]  # a track has a mark


def test_an_interval_without_width_can_still_be_seen() -> None:
    span = parse(interval_track(0.5, 0.5, 0.5, title="sure")).find("rect")
    assert span is not None
    assert float(span.get("width", "0").rstrip("%")) > 0


@pytest.mark.parametrize("chart", ["track", "share", "line"])
def test_titles_are_escaped_and_the_chart_is_one_image_to_a_screen_reader(chart: str) -> None:
    title = "<script>&"
    match chart:
        case "track":
            svg = interval_track(0.1, 0, 1, title=title)
        case "share":
            svg = share_bar([(1, "a")], title=title)
        case _:
            svg = line_chart([Line(css="a", points=[(0, 1), (1, 2)])], title=title, y_label=title)
    root = parse(svg)
    assert root.get("role") == "img"
    assert root.findtext("title") == title


def test_share_bar_parts_fill_the_width() -> None:
    svg = parse(share_bar([(3, "a"), (1, "b")], title="of four"))
    assert [(part.get("x"), part.get("width")) for part in svg.findall("rect")] == [("0%", "75%"), ("75%", "25%")]


def test_a_line_chart_stays_inside_and_marks_the_chosen_point() -> None:
    # Two points at one x: a frontier goes back and forth.
    points = [(0.0, 2.0), (50.0, 1.0), (50.0, 1.5), (100.0, 0.5)]
    svg = parse(line_chart([Line(css="a", points=points, highlight=(50.0, 1.0))], title="loss", y_label="loss"))
    (path,) = svg.findall("path")
    places = [tuple(map(float, place.split())) for place in path.get("d", "").removeprefix("M").split("L")]
    assert len(places) == len(points)
    assert all(0 <= x <= 360 and 0 <= y <= 210 for x, y in places)
    (ring,) = svg.findall("circle")
    assert (float(ring.get("cx", "")), float(ring.get("cy", ""))) == places[1]


def test_a_line_chart_of_nothing_is_nothing() -> None:
    assert line_chart([Line(css="a", points=[])], title="loss", y_label="loss") == ""


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.9, 0.91), (-3.0, 1700.0), (5.0, 5.0), (0.0, 0.0), (1e-7, 2e-7)]
)
def test_ticks_are_few_and_enclose_the_values(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))


def test_heat_levels_cover_the_span_and_hold_what_is_outside() -> None:
    assert [heat_level(value, (0.0, 1.0), 4) for value in (-1.0, 0.0, 0.3, 0.99, 1.0, 9.0)] == [0, 0, 1, 3, 3, 3]


def test_a_chart_need_not_start_at_zero() -> None:
    svg = parse(
        line_chart(
            [Line(css="one", points=[(0.90, 0.2), (0.93, 0.5)])], title="t", y_label="y", percent=True, from_zero=False
        )
    )
    labels = [text.text for text in svg.findall("text")]
    assert "90%" in labels
    assert "0%" not in labels
