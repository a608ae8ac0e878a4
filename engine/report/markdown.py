"""The report as Markdown for a pull request: verdict and why, before and after, worst cells, next steps, cost."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.report.views.advice import find_comparison, headline
from engine.report.views.arms import looks_of
from engine.report.views.no_finding import untested
from engine.report.views.results import FIGURES
from engine.report.views.run import cost_view
from engine.runfile.arms import BASE, title_of
from engine.runfile.run import RunFile
from engine.wording import count, interval, percent, points, q_value, signed_interval

NUM_CELLS = 8
SIGNS = {"ship": "✅", "do not ship": "❌"}
# Characters with a meaning in Markdown or HTML, escaped in texts of users; @ would mention people.
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~@])")

Summary = Mapping[str, Any]


def markdown_report(summary: Summary, run: RunFile) -> str:
    """Return the report as GitHub's Markdown. Names that come from users are escaped."""
    patient = run.probe.model.name if run.probe.model else str(run.probe.callable)
    parts = [
        f"## {SIGNS.get(summary['verdict'], '⏳')} {headline(summary['verdict'], run)}",
        f"Counterforge run **{_text(summary['name'])}**, classifier under test: **{_text(patient)}**",
        "\n".join(f"- {_sentence(reason)}" for reason in summary["reasons"]),
        *_section("Before and after", _figures(summary, run)),
        *_section("Each kind of edit, before and after", _kinds(summary)),
        *_section("Where it is weak", _cells(summary)),
        *_section(
            "What to do next", "\n".join(f"{n}. {_sentence(step)}" for n, step in enumerate(summary["next_steps"], 1))
        ),
        *_section("Cost", "\n".join(_cost(summary))),
        f"Intervals are {percent(summary['confidence'], 0)} intervals. Plan `{str(summary['plan_digest'])[:12]}`, code "
        f"`{str(summary['revision'])[:12] or 'unknown'}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, body: str) -> list[str]:
    return [f"### {title}", body] if body else []


def _figures(summary: Summary, run: RunFile) -> str:
    """Return a table with one row a headline figure and one column an arm."""
    looks, ships = looks_of(summary, run.reinforce), summary["ships"]
    arms = [arm for arm in looks if any((summary[name] or {}).get(arm) for name, *_ in FIGURES)]
    if not arms:
        return ""
    rows = []
    for name, title, *_ in FIGURES:
        found = [(summary[name] or {}).get(arm) for arm in arms]
        if any(found):
            rows.append([f"**{title}**", *map(_figure, found), _change(summary, name, ships)])
    return _table(["", *(looks[arm].name for arm in arms), f"{title_of(ships)} − base classifier, points"], rows)


def _figure(figure: Mapping[str, Any] | None) -> str:
    if not figure or figure["value"] is None:
        return "–"
    group = f", {_text(figure['group'])}" if figure.get("group") else ""
    group += f", worst of {count(figure['num_groups'])}" if figure.get("num_groups") else ""
    return f"**{percent(figure['value'])}** ({interval(figure)}; n {count(figure['n'])}{group})"


def _change(summary: Summary, name: str, ships: str) -> str:
    before, after = ((summary[name].get(arm) or {}).get("value") for arm in (BASE, ships))
    if before is None or after is None:
        return "–"
    comparison = find_comparison(summary, name)
    between = f" ({points(comparison['low'])} to {points(comparison['high'])})" if comparison else ""
    return f"**{points(after - before)}**{between}"


def _kinds(summary: Summary) -> str:
    """Return a table with the drop of each kind of edit for the base classifier and the arm that may ship."""
    rows, ships = [], summary["ships"]
    for row in summary["edits_by_kind"]:
        before, after = (row["arms"].get(arm) for arm in (BASE, ships))
        if row["value"] is None and before and after:
            change = f"**{points(after['change'])}** ({signed_interval(after, 'change')})"
            ends = (f"{points(found['drop'])} ({signed_interval(found, 'drop')})" for found in (before, after))
            rows.append([_text(row["kind"]), *ends, change, count(row["n_sources"])])
    columns = ["Edit", "Drop of the base classifier, points", f"Drop of {title_of(ships)}", "Change", "Sources"]
    return _table(columns, rows) if rows else ""


def _cells(summary: Summary) -> str:
    weakness = summary["weakness"]
    if not weakness or untested(weakness):
        return ""
    drop = weakness["drop"]
    cells = [cell for cell in weakness["cells"] if cell[drop] is not None and cell["significant"]][:NUM_CELLS]
    intro = (
        f"{count(weakness['num_significant'])} of {count(weakness['num_cells'])} cells of class, edit and value hurt "
        "significantly"
    )
    if not cells:
        return f"{intro}."
    rows = [
        [
            _text(cell["class_name"] or "all classes"),
            _text(f"{cell['kind']}: {cell['after'] or 'any'}"),
            f"**{points(cell[drop])}** ({signed_interval(cell, drop)})",
            percent(cell["flip_rate"], 0),
            count(cell["n_sources"]),
            q_value(cell["q_value"]),
        ]
        for cell in cells
    ]
    columns = ["Class", "Edit", "Drop of accuracy, points", "Flips", "Sources", "q"]
    return f"{intro}; the worst:\n\n{_table(columns, rows)}"


def _cost(summary: Summary) -> Iterator[str]:
    for name, value in cost_view(summary)["facts"]:
        yield f"- {name}: {value}"
    if summary["rates"]["accepted_share"] is not None:
        yield f"- share of the edits that was accepted: {percent(summary['rates']['accepted_share'])}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    """Return a user's text with the characters that Markdown interprets escaped."""
    return SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def _sentence(text: str) -> str:
    """Return a sentence of ours on one line: `code` is kept, but HTML, table cells and mentions are escaped."""
    return re.sub(
        r"<(?=\S)", "&lt;", " ".join(text.split()).replace("|", "\\|").replace("@", "\\@").replace("[", "\\[")
    )
