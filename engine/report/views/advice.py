"""The reasons of the verdict and the next steps in words, from the summary's numbers."""

from collections.abc import Mapping
from typing import Any

from engine.report.views.kinds import worst_change
from engine.report.views.no_finding import no_weakness, untested
from engine.runfile.arms import BASE
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.wording import count, percent, points, words

MIN_ACCEPTED_SHARE = 0.3
# Widest interval of a group accuracy that supports a decision.
MAX_WIDTH = 0.3


def headline(verdict: str, run: RunFile) -> str:
    """Return the page's title for a verdict."""
    match verdict:
        case "ship":
            return "Ship the reinforced classifier"
        case "do not ship":
            return "Do not ship: keep the classifier you have"
        case _:
            return "No verdict yet" if run.probe.model else "No verdict: a black box is scored and not trained"


def verdict_reasons(summary: dict[str, Any], run: RunFile) -> list[str]:
    """Return the reasons, most important first: the gate's own ones, then the measured changes."""
    training = summary["training"] or {}
    reasons = [_sentence(str(reason)) for reason in training.get("reasons", [])]
    figures = {
        "conflict_accuracy": "where class and attribute disagree",
        "worst_group_accuracy": "in the worst group",
        "accuracy_biased": "on the test set like the training data",
    }
    reasons += filter(None, (_change_in_words(summary, name, words) for name, words in figures.items()))
    reasons += filter(None, [worst_change(summary["edits_by_kind"], summary["ships"])])
    if (weakness := summary["weakness"]) is not None:
        reasons += map(_sentence, weakness.get("output_notes", []))
        if weakest := weakest_cell(weakness):
            reasons.append(f"The weakness found: {weakest}.")
        elif not weakness["num_significant"]:  # else it is in a class that is not shown
            reasons.append(no_weakness(weakness))
    if summary["verdict"] == "none yet":
        why = "has not been reinforced" if run.probe.model else "is a function, which nothing here can train"
        reasons.insert(0, f"The classifier {why}, so there is nothing to ship or to refuse.")
    return reasons


def weakest_cell(weakness: Mapping[str, Any]) -> str | None:
    """Return the first significant cell of the weakness table in words, else the first such kind of edit, or None."""
    name, cells = weakness["drop"], (*weakness["cells"], *weakness["by_kind"])
    cell = next((cell for cell in cells if cell["significant"] and cell[name] is not None), None)
    if cell is None:
        return None
    edit = f"{cell['kind']} to {cell['after']}" if cell["after"] else f"{cell['kind']}"
    who = f"of {cell['class_name']}" if cell["class_name"] else "of any class"
    low, high = (100 * cell[f"{name}_{end}"] for end in ("low", "high"))
    # Kinds are not ranked, so they need no other half to be measured on.
    apart = "" if cell["level"] == "kind" else " that had no part in finding it"
    return (
        f"changing the {edit} in pictures {who} costs {100 * cell[name]:.0f} points of accuracy "
        f"({low:.0f} to {high:.0f}, on {cell['n_sources']} sources{apart})"
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
        case _ if run.probe.model is None and summary["weakness"]:
            steps.append(_after_a_black_box(summary))
        # Where no edit was accepted, nothing is left to probe or to learn from.
        case _ if missing or counts["accepted"] or not counts["candidates"]:
            phase = "counterforge reinforce" if summary["weakness"] else "counterforge probe"
            steps.append(f"Go on with `{phase}`, or with `counterforge run`, which does every phase that is left.")
    steps += summary["domain"]["warnings"]
    steps += _generator_steps(summary, run)
    steps += _doubts(summary, run)
    return steps or ["Nothing is left to do for this run."]


def _after_a_black_box(summary: Mapping[str, Any]) -> str:
    if not summary["accuracy_biased"]:
        return "Go on with `counterforge reinforce`, which scores a function on the test sets and trains nothing."
    learn = (
        "fine-tune it with your own code on the accepted edits, WebDataset tars in `shards`, then "
        if summary["counts"]["accepted"]
        else "to train it, "
    )
    return (
        f"A function (`probe.callable`) cannot be trained here: {learn}probe it again with another `probe.version`; or "
        "name a checkpoint of transformers with `probe.model`, then `counterforge run`."
    )


def _remedies(summary: dict[str, Any], run: RunFile) -> list[str]:
    training, num_validation = summary["training"] or {}, run.data.num_validation_sources
    reinforced = training.get("arms", {}).get(summary["ships"])
    if reinforced is None or not training.get("images", {}).get("counterfactuals", 1):
        return ["The reasons above say what the training lacked: change that, then start `counterforge run` again."]
    lost = _lost(summary)
    if lost > run.reinforce.max_accuracy_loss:
        return [
            f"The reinforced model forgot {100 * lost:.1f} points of what it knew: raise reinforce.distillation (now "
            f"{run.reinforce.distillation:g}) or reinforce.replay_ratio (now {run.reinforce.replay_ratio:g}), or lower "
            f"reinforce.learning_rate (now {run.reinforce.learning_rate:g})."
        ]
    if reinforced.get("validation_edits_accuracy") is None:
        cause = "none of their edits was accepted" if num_validation else "they are what shows whether it improved"
        return [f"Raise data.num_validation_sources (now {num_validation}): {cause}."]
    weakness = summary["weakness"]
    if weakness is not None and weakest_cell(weakness) is None and not weakness["num_significant"]:
        return [
            "The probe found no weakness, so there is little to cure; more sources (data.num_sources) or other kinds "
            "of edit may show one."
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


def _generator_steps(summary: dict[str, Any], run: RunFile) -> list[str]:
    counts, steps = summary["counts"], []
    pictures = "the rejected pictures on the page" if run.shards.keep_rejected == "all" else "`counterforge status`"
    if counts["sources"] and not counts["candidates"]:
        steps.append("No edit was made of any source: see the reasons under counts and time on the page.")
    elif counts["candidates"] and counts["accepted"] / counts["candidates"] < MIN_ACCEPTED_SHARE:
        steps.append(_few_accepted(counts, pictures))
    else:
        by_kind = summary["accept_rate"]["by_kind"]
        rejected = [kind["name"] for kind in by_kind if kind["high"] < MIN_ACCEPTED_SHARE]
        if rejected:
            steps.append(
                f"Hardly any edit of {' or '.join(rejected)} was accepted, so this page says little of it: look at "
                f"{pictures}, and try other thresholds with `counterforge select`, which needs no GPU."
            )
    overall = (summary["weakness"] or {}).get("overall") or {}
    artefact, corrected = overall.get("artefact_drop"), overall.get("corrected_drop")
    if artefact is not None and corrected is not None and artefact > max(corrected, 0.02):
        steps.append(
            f"The editor alone costs {100 * artefact:.0f} points, more than what edits mean ({100 * corrected:.0f}): "
            "read corrected drops only, and look for a more faithful editor."
        )
    return steps


def _few_accepted(counts: Mapping[str, Any], pictures: str) -> str:
    """Return the step where the verifier rejected most edits, or most could not be processed."""
    total, lost = counts["candidates"], counts["quarantined_candidates"]
    num_rejected = sum(counts["rejected"].values())
    few = f"Only {percent(counts['accepted'] / total, 0)} of the edits were accepted"
    if lost > num_rejected:
        reason = next(iter(counts["quarantined"]), "")
        most = f", most often for {words(reason)}" if reason else ""
        return f"{few}: {count(lost)} of {count(total)} could not be processed{most}."
    reason = next(iter(counts["rejected"]), "")
    most = f", most often for {words(reason)}" if reason else ""
    return f"{few}{most}: look at {pictures}; editor or thresholds may not suit these images."


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
    weakness, groups = summary["weakness"], summary["groups"]
    if weakness is not None and weakness["overall"] is not None and untested(weakness):
        steps.append(f"Raise data.num_sources, or lower probe.min_sources (now {weakness['min_sources']}).")
    if weakness is not None and weakness["overall"] is not None and not weakness["has_placebos"]:
        steps.append(f"{_no_placebo(summary, run)}, so the editor's own damage counts as weakness.")
    if summary["verdict"] != "none yet" and run.data.shifted is None and groups and groups["group_by"]:
        steps.append(
            "No shifted test set was given (data.shifted): figures by group come from data like the training data."
        )
    return steps


def _no_placebo(summary: Mapping[str, Any], run: RunFile) -> str:
    """Return why no tested edit has a placebo beside it, and what gives it one."""
    counts, perturber = (
        summary["counts"],
        [name for name, stage in run.stages.items() if isinstance(stage, PerturberConfig) and not stage.placebo],
    )
    made = counts["placebos"] + counts["rejected_placebos"]
    if perturber:
        return f"This run has no placebo (set stages.{perturber[0]}.placebo: true)"
    if made and made == counts["rejected_placebos"]:
        return f"The verifier rejected all {count(made)} placebos (the editor cannot leave a picture as it is)"
    return "No source with an accepted edit has an accepted placebo"


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
