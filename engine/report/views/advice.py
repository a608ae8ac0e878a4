"""The reasons of the verdict and the next steps in words, from the summary's numbers."""

from collections.abc import Mapping
from typing import Any

from engine.runfile.arms import BASE
from engine.runfile.run import RunFile
from engine.wording import percent, points

MIN_ACCEPTED_SHARE = 0.3
# Widest interval of a group accuracy that supports a decision.
MAX_WIDTH = 0.3


def headline(verdict: str) -> str:
    """Return the page's title for a verdict."""
    match verdict:
        case "ship":
            return "Ship the reinforced classifier"
        case "do not ship":
            return "Do not ship: keep the classifier you have"
        case _:
            return "No verdict yet"


def verdict_reasons(summary: dict[str, Any]) -> list[str]:
    """Return the reasons, most important first: the gate's own ones, then the measured changes."""
    training = summary["training"] or {}
    reasons = [_sentence(str(reason)) for reason in training.get("reasons", [])]
    figures = {
        "conflict_accuracy": "where class and attribute disagree",
        "worst_group_accuracy": "in the worst group",
        "accuracy_biased": "on the test set like the training data",
    }
    reasons += filter(None, (_change_in_words(summary, name, words) for name, words in figures.items()))
    if weakest := weakest_cell(summary):
        reasons.append(f"The weakness found: {weakest}.")
    if summary["verdict"] == "none yet":
        reasons.insert(0, "The classifier has not been reinforced, so there is nothing to ship or to refuse.")
    return reasons


def weakest_cell(summary: dict[str, Any]) -> str | None:
    """Return the first significant cell of the weakness table in words, or None."""
    weakness = summary["weakness"] or {"cells": [], "drop": ""}
    name = weakness["drop"]
    cell = next((cell for cell in weakness["cells"] if cell["significant"] and cell[name] is not None), None)
    if cell is None:
        return None
    edit = f"{cell['kind']} to {cell['after']}" if cell["after"] else f"{cell['kind']}"
    who = f"of {cell['class_name']}" if cell["class_name"] else "of any class"
    low, high = (100 * cell[f"{name}_{end}"] for end in ("low", "high"))
    return (
        f"changing the {edit} in pictures {who} costs {100 * cell[name]:.0f} points of accuracy "
        f"({low:.0f} to {high:.0f}, on {cell['n_sources']} sources that had no part in finding it)"
    )


def next_steps(summary: dict[str, Any], run: RunFile) -> list[str]:
    """Return recommendations for the user, most important first."""
    counts, steps = summary["counts"], []
    missing = counts["planned_shards"] - counts["shards"]
    if missing:
        steps.append(
            f"{missing} of {counts['planned_shards']} shards are not made yet: run the same command again, it resumes."
        )
    match summary["verdict"]:
        case "ship":
            steps.append(
                f"Load the classifier with `from_pretrained` from `models/{summary['ships']}` and try it on your own "
                "pictures."
            )
        case "do not ship":
            steps += _remedies(summary, run)
        case _:
            phase = "counterforge reinforce" if summary["weakness"] else "counterforge probe"
            steps.append(f"Go on with `{phase}`, or with `counterforge run`, which does every phase that is left.")
    steps += _generator_steps(summary)
    steps += _doubts(summary, run)
    return steps or ["Nothing is left to do for this run."]


def _remedies(summary: dict[str, Any], run: RunFile) -> list[str]:
    lost = _lost(summary)
    if lost > run.reinforce.max_accuracy_loss:
        return [
            f"The reinforced model forgot {100 * lost:.1f} points of what it knew: raise reinforce.distillation (now "
            f"{run.reinforce.distillation:g}) or reinforce.replay_ratio (now {run.reinforce.replay_ratio:g}), or lower "
            f"reinforce.learning_rate (now {run.reinforce.learning_rate:g})."
        ]
    return [
        "Give it more to learn from: more sources (data.num_sources), more edits of the kinds on top of the weakness "
        f"table, or more steps (reinforce.num_steps, now {run.reinforce.num_steps})."
    ]


def _lost(summary: Mapping[str, Any]) -> float:
    """Return the accuracy lost on the test set like the training data, 0 where it was not measured."""
    biased = summary["accuracy_biased"]
    before, after = ((biased.get(arm) or {}).get("value") for arm in (BASE, summary["ships"]))
    return 0.0 if before is None or after is None else float(before - after)


def _generator_steps(summary: dict[str, Any]) -> list[str]:
    counts, steps = summary["counts"], []
    if counts["candidates"] and counts["accepted"] / counts["candidates"] < MIN_ACCEPTED_SHARE:
        reason = next(iter(counts["rejected"]), None)
        most = f", most often for {reason.replace('_', ' ')}" if reason else ""
        steps.append(
            f"Only {percent(counts['accepted'] / counts['candidates'], 0)} of the edits were accepted{most}: look at "
            "the rejected pictures below; the editor may not suit these images, or the thresholds the verifier's model."
        )
    else:
        by_kind = summary["accept_rate"]["by_kind"]
        rejected = [kind["name"] for kind in by_kind if kind["high"] < MIN_ACCEPTED_SHARE]
        if rejected:
            steps.append(
                f"Hardly any edit of {' or '.join(rejected)} was accepted, so this page says nothing of it: look at "
                "the rejected pictures below, and try other thresholds with `counterforge select`, which needs no GPU."
            )
    overall = (summary["weakness"] or {}).get("overall") or {}
    artefact, corrected = overall.get("artefact_drop"), overall.get("corrected_drop")
    if artefact is not None and corrected is not None and artefact > max(corrected, 0.02):
        steps.append(
            f"The editor alone costs {100 * artefact:.0f} points, more than what edits mean ({100 * corrected:.0f}): "
            "read corrected drops only, and look for a more faithful editor."
        )
    return steps


def _doubts(summary: dict[str, Any], run: RunFile) -> list[str]:
    steps = []
    lost, allowed = _lost(summary), run.reinforce.max_accuracy_loss
    if summary["verdict"] == "ship" and lost > allowed + 1e-9:
        steps.append(
            f"On the test set it lost {100 * lost:.1f} points, more than the {100 * allowed:.1f} that are allowed on "
            "validation images, which chose it: see whether you can bear that, or lower reinforce.max_accuracy_loss."
        )
    for name in ("worst_group_accuracy", "conflict_accuracy"):
        after = summary[name].get(summary["ships"])
        if after and after["low"] is not None and after["high"] - after["low"] > MAX_WIDTH:
            words = name.replace("_", " ")
            steps.append(
                f"The {words} rests on {after['n']} images, its interval is {100 * (after['high'] - after['low']):.0f} "
                "points wide: test on more images of these groups before you rely on it."
            )
    if summary["weakness"] is not None and not summary["weakness"]["has_placebos"]:
        steps.append(
            "There is no placebo in this run, so the editor's own damage counts as weakness: set placebo: true."
        )
    if summary["verdict"] != "none yet" and run.data.shifted is None:
        steps.append(
            "No shifted test set was given (data.shifted): figures by group come from data like the training data."
        )
    return steps


def find_comparison(summary: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the paired comparison of reinforced and base classifier for a headline figure, if it was made."""
    match name:
        case "conflict_accuracy":
            wanted = [("shifted", "conflict"), ("test", "conflict")]
        case "accuracy_biased":
            wanted = [("test", "all")]
        case _:
            return None
    found = {
        (comparison["set"], comparison["where"]): comparison
        for comparison in summary["comparisons"]
        if comparison["arm"] == summary["ships"] and comparison["against"] == BASE
    }
    return next((found[place] for place in wanted if place in found), None)


def _change_in_words(summary: Mapping[str, Any], name: str, words: str) -> str | None:
    figure, comparison = summary[name], find_comparison(summary, name)
    before, after = figure.get(BASE), figure.get(summary["ships"])
    if not before or not after or before["value"] is None or after["value"] is None:
        return None
    difference = after["value"] - before["value"]
    if not difference:
        return f"Accuracy {words} stayed at {percent(before['value'])}."
    apart = before["high"] < after["low"] or after["high"] < before["low"]
    clear = "the intervals do not overlap" if apart else "the intervals overlap"
    if comparison:
        low, high, p_value = points(comparison["low"]), points(comparison["high"]), comparison["p_value"]
        clear = f"{points(comparison['difference'])} points, {low} to {high}, McNemar p {_p_value(p_value)}"
    verb = "rose" if difference > 0 else "fell"
    return f"Accuracy {words} {verb} from {percent(before['value'])} to {percent(after['value'])} ({clear})."


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
