"""The views of verifier and cost: sentences, bars and tables for the template."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.report.drawing.charts import share_bar
from engine.wording import DASH, count, duration, interval, percent, plain, words

View = dict[str, Any]
# Reasons beyond these share the bar's last colour.
BAR_COLOURS = ("h5", "h4", "h3", "h2")


def verifier_sentence(summary: Mapping[str, Any]) -> str:
    """Return one sentence with the numbers of accepted edits and placebos."""
    counts = summary["counts"]
    if not counts["candidates"]:
        return ""
    placebos = counts["placebos"] + counts["rejected_placebos"]
    also = (
        f" Of {count(placebos)} placebos, {count(placebos - counts['rejected_placebos'])} passed." if placebos else ""
    )
    return (
        f"{count(counts['accepted'])} of {count(counts['candidates'])} edits were accepted "
        f"({percent(counts['accepted'] / counts['candidates'])}).{also} The classifier under test has no part in this."
    )


def accept_tables(rates: Mapping[str, Any]) -> list[View]:
    """Return the tables of accept rates by edit kind and of failures by check."""
    tables = []
    for name, title, corner, what, css in (
        ("by_kind", "Accepted, by kind of edit", "Kind", "Accepted", "kept"),
        ("by_check", "Failed, by check; an edit may fail several", "Check", "Failed", "harm"),
        ("by_check_alone", "Failed this check alone: what is rejected for nothing else", "Check", "Failed", "harm"),
    ):
        rows = [
            {**line, "name": words(line["name"]), "title": f"{percent(line['value'], 0)}, {interval(line, 0)}"}
            for line in rates[name]
        ]
        if rows:
            tables.append({"title": title, "corner": corner, "what": what, "css": css, "rows": rows})
    return tables


def cost_view(summary: Mapping[str, Any]) -> View:
    """Return the facts, the bar of the candidates' outcomes, and the tables of counts and times."""
    counts, rates = summary["counts"], summary["rates"]
    total = sum(summary["seconds"].values())
    facts = [
        ("shards", f"{count(counts['shards'])} of {count(counts['planned_shards'])}"),
        ("sources", count(counts["sources"])),
        ("edits tried", count(counts["candidates"])),
        ("edits accepted", count(counts["accepted"])),
        ("time, all phases", duration(total) if total else DASH),
        ("time for an accepted edit", duration(rates["seconds_per_accepted"])),
    ]
    if rates["price_per_accepted"] is not None:
        facts.append(("price of an accepted edit", f"{rates['price_per_accepted']:.3g}"))
    reasons = [(words(name), n) for name, n in counts["rejected"].items()]
    parts = [("accepted", counts["accepted"], "kept"), *_bar_parts(reasons)]
    if counts["quarantined_candidates"]:
        parts.append(("could not be processed", counts["quarantined_candidates"], "patient"))
    return {
        "facts": facts,
        "candidate_bar": share_bar(
            [(n, f"fill-{css}") for _, n, css in parts],
            title="Of all edits tried: " + ", ".join(f"{n} {name}" for name, n, _ in parts),
        )
        if counts["candidates"]
        else None,
        "candidate_legend": [(f"fill-{css}", f"{name} {count(n)}") for name, n, css in parts],
        "count_tables": _count_tables(summary),
    }


def _count_tables(summary: Mapping[str, Any]) -> list[View]:
    stages, scores = summary["seconds_by_stage"], summary["accept_rate"]["by_score"]
    rejected, quarantined = (
        [(words(name), count(n)) for name, n in summary["counts"][which].items()]
        for which in ("rejected", "quarantined")
    )
    phases = [(name, duration(seconds)) for name, seconds in summary["seconds"].items()]
    total = sum(stages.values())
    by_stage = [(name, duration(s), percent(s / total, 0)) for name, s in stages.items() if total]
    medians = [
        (words(each["name"]), *(plain(each[f"{of}_median"]) for of in ("accepted", "rejected"))) for each in scores
    ]
    tables = (
        ("Rejected edits, by the first check failed", ("Reason", "Edits"), rejected, "Nothing was rejected."),
        ("Could not be processed", ("Reason", "Samples"), quarantined, "Everything could be processed."),
        ("Wall-clock time by phase", ("Phase", "Time"), phases, "No phase was timed."),
        ("Working time by stage, summed over actors", ("Stage", "Time", "Share"), by_stage, "No stage was timed."),
        ("Median score of the verifier", ("Score", "Accepted", "Rejected"), medians, "No scores."),
    )
    return [{"title": title, "columns": columns, "rows": rows, "none": none} for title, columns, rows, none in tables]


def _bar_parts(reasons: Sequence[tuple[str, int]]) -> list[tuple[str, int, str]]:
    shown = [(name, n, css) for (name, n), css in zip(reasons, BAR_COLOURS, strict=False)]
    rest = sum(n for _, n in reasons[len(BAR_COLOURS) :])
    return [*shown, ("other reasons", rest, "h1")] if rest else shown
