"""The view of the page: the summary's numbers as words, heat maps, charts and tables for the template."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.evaluation.groups import small_groups
from engine.report.drawing.maps import group_attributes, group_map, group_name, key_of, shown_classes
from engine.report.views.advice import find_comparison, headline
from engine.report.views.arms import ArmLook, looks_of
from engine.report.views.attribution import arm_words
from engine.report.views.kinds import kinds_view
from engine.report.views.rounds import rounds_view
from engine.report.views.run import accept_tables, cost_view, verifier_sentence
from engine.report.views.training import training_view
from engine.report.views.weakness import weakness_view
from engine.runfile.arms import BASE, title_of
from engine.runfile.reinforce import ReinforceConfig
from engine.runfile.run import RunFile
from engine.wording import count, interval, percent, points

View = dict[str, Any]
FIGURES = (
    (
        "conflict_accuracy",
        "Conflict accuracy",
        "where an image does not have its class's usual attribute",
        "Not measured: the images have no attributes, or no class has a usual value.",
    ),
    (
        "worst_group_accuracy",
        "Worst-group accuracy",
        "in the group of class and attributes with the lowest accuracy; the interval is of the minimum of all groups",
        "Not measured: the images have no attributes, or no group has enough images.",
    ),
    (
        "accuracy_biased",
        "Accuracy as before",
        "on test images like the training data; it should not fall",
        "Not measured: there are no test images.",
    ),
)
NUM_GROUPS = 8
# Of a group that is ranked, as in the evaluation.
MIN_IMAGES = 10
MISSING = {
    "evaluation": "No evaluation yet: `counterforge run` evaluates every arm on the test sets after reinforcing.",
    "weakness": "Not probed yet: run `counterforge probe`, which asks the classifier about every accepted picture.",
    "pictures": "No pictures yet: no source has an accepted edit, or report.num_rows is 0.",
    "groups": "No groups: the test images have no attributes. Add attribute columns to the data to see them.",
    "rejected": "No rejected picture to show: nothing was rejected, or shards.keep_rejected is none.",
    "candidates": "No edits were made yet: run `counterforge generate`.",
    "reinforce": "Not reinforced yet: run `counterforge reinforce` to train on the accepted edits.",
}
BLACK_BOX = {
    "evaluation": "No evaluation yet: `counterforge reinforce` scores a function on the test sets.",
    "reinforce": "Not reinforced: a function (`probe.callable`) is a black box, which nothing here can train.",
}
NO_EDITS = {
    "candidates": "No edit was made of any source: the reasons stand under counts and time.",
    "pictures": "No pictures: no source has an accepted edit, or report.num_rows is 0.",
}


def build_view(summary: Mapping[str, Any], run: RunFile, run_text: str) -> View:
    """Return the template's variables beside the summary itself."""
    verdict = summary["verdict"]
    looks = looks_of(summary, run.reinforce)
    compared = (BASE, *(run.reinforce.arms if run.probe.model else ()))
    badge, sign = {"ship": ("ship", "✓"), "do not ship": ("stop", "✗")}.get(verdict, ("open", "…"))
    return {
        "headline": headline(verdict, run),
        "badge": badge,
        "sign": sign,
        "patient": run.probe.model.name if run.probe.model else run.probe.callable,
        "arms": [_arm(look) | {"what": look.meaning} for arm, look in looks.items() if arm in compared],
        "ships": title_of(summary["ships"]),
        "arm_words": arm_words(looks),
        "figures": _figures(summary, looks),
        "kinds": kinds_view(summary["edits_by_kind"], summary["ships"], looks),
        "weakness": weakness_view(summary["weakness"]),
        "pictures_sentence": _pictures_sentence(summary["pictures"]),
        "groups": _groups(summary["groups"], run, looks),
        "verifier_sentence": f"{verifier_sentence(summary)} {summary['domain']['sentence']}",
        "accept_tables": accept_tables(summary["accept_rate"]),
        "training": training_view(summary["training"], looks),
        "rounds": rounds_view(summary["rounds"], run.rounds, summary["weakness"]),
        **cost_view(summary),
        "run_file": run_text,
        "missing": MISSING | (BLACK_BOX if run.probe.callable else {}) | (NO_EDITS if _is_made(summary) else {}),
    }


def _is_made(summary: Mapping[str, Any]) -> bool:
    return bool(summary["counts"]["shards"] == summary["counts"]["planned_shards"])


def _arm(look: ArmLook) -> View:
    return {"css": look.css, "name": look.name, "mark": look.mark}


def _estimate(look: ArmLook, figure: Mapping[str, Any]) -> View:
    title = f"{look.name}: {percent(figure['value'])}, {percent(figure['low'])} to {percent(figure['high'])}"
    return {**_arm(look), **figure, "title": title}


def _figures(summary: Mapping[str, Any], looks: Mapping[str, ArmLook]) -> list[View]:
    if not any(summary[name] for name, *_ in FIGURES):
        return []
    figures, ships = [], summary["ships"]
    for name, title, what, missing in FIGURES:
        known = {arm: figure for arm, figure in summary[name].items() if figure and figure["value"] is not None}
        both = BASE in known and ships in known
        figures.append(
            {
                "name": title,
                "what": what,
                "change": known[ships]["value"] - known[BASE]["value"] if both else None,
                "range": _change_range(summary, name),
                "arms": [_estimate(look, known[arm]) for arm, look in looks.items() if arm in known],
                "missing": None if known else missing,
            }
        )
    return figures


def _change_range(summary: Mapping[str, Any], name: str) -> str:
    comparison = find_comparison(summary, name)
    return f"{points(comparison['low'])} to {points(comparison['high'])}" if comparison else ""


def _pictures_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    flipped = sum(row["flips"] > 0 for row in rows)
    if not any(picture["predictions"] for row in rows for picture in row["pictures"]):
        return "Each row is one source. The classifier has not been asked about these pictures yet."
    cured = sum(row["cures"] > 0 for row in rows)
    after = f"; in {count(cured)} the reinforced classifier gets such an edit right" if cured else ""
    return (
        f"Each row is one source. In {count(flipped)} of these {count(len(rows))} an edit flips the classifier from "
        f"right to wrong{after}. Rows with flips are shown first, so this is not a random choice."
    )


def _groups(groups: Mapping[str, Any] | None, run: RunFile, looks: Mapping[str, ArmLook]) -> View | None:
    if not groups or not group_attributes(groups["arms"][BASE]):
        return None
    base = groups["arms"][BASE]
    arms, classes, num_classes = groups["arms"], shown_classes(base), len({group["class_name"] for group in base})
    note = f"The {len(classes)} classes with the worst groups, of {num_classes}." if len(classes) < num_classes else ""
    attributes = []
    for attribute in group_attributes(base):
        maps = [
            group_map(arms[arm], attribute, title=looks[arm].name, classes=classes, dominant=groups["dominant"])
            for arm in (BASE, *reversed(_key_arms(run.reinforce, bounds=False)))
            if arm in arms
        ]
        attributes.append({"name": attribute, "maps": maps, "note": note})
    known = [arm for arm in (BASE, *_key_arms(run.reinforce, bounds=True)) if arm in arms]
    return {
        "sentence": f"On the {'shifted ' if run.data.shifted else ''}test set. ◆ marks a class's usual value in the "
        "training data; the other cells are conflicts. Looking at the object alone gives one shade across a row."
        + _adjusted_sentence(groups["adjusted_average"], looks)
        + _small_groups_sentence(base),
        "key": key_of("all right", "all wrong"),
        "attributes": attributes,
        "arms": [_arm(looks[arm]) for arm in known],
        "worst": _worst_groups(arms, {arm: looks[arm] for arm in known}),
    }


def _key_arms(config: ReinforceConfig, *, bounds: bool) -> list[str]:
    """Return the arms for which there is room: the first one without edits, the one that may ship, upper bounds."""
    first = [name for name, arm in config.arms.items() if arm.is_baseline and name != config.ships][:1]
    others = [name for name, arm in config.arms.items() if arm.is_bound] if bounds else []
    return [*first, config.ships, *others]


def _adjusted_sentence(adjusted: Mapping[str, Mapping[str, Any]], looks: Mapping[str, ArmLook]) -> str:
    if not adjusted:
        return ""
    arms = "; ".join(f"{looks[arm].name} {percent(at['value'])} ({interval(at)})" for arm, at in adjusted.items())
    return f" Adjusted average, each group weighed by its share of the training data: {arms}."


def _small_groups_sentence(groups: Sequence[Mapping[str, Any]]) -> str:
    if (small := small_groups(groups, MIN_IMAGES)) is None:
        return ""
    worst = ", ".join(f"{group_name(group)} {group['correct']} of {group['n']}" for group in small.worst)
    return (
        f" {count(small.num_groups)} groups have fewer than {MIN_IMAGES} images and are not ranked: together the base "
        f"classifier is right on {percent(small.accuracy)} of their {count(small.n)}; the worst: {worst}."
    )


def _worst_groups(arms: Mapping[str, Sequence[Mapping[str, Any]]], known: Mapping[str, ArmLook]) -> list[View]:
    found = {arm: {group_name(group): {**group, "value": group["accuracy"]} for group in arms[arm]} for arm in known}
    large = [group for group in arms[BASE] if group["n"] >= MIN_IMAGES]
    worst = sorted(large, key=lambda group: (group["accuracy"], -group["n"]))[:NUM_GROUPS]
    return [
        {
            "name": name,
            "n": group["n"],
            "arms": [_estimate(look, found[arm][name]) for arm, look in known.items() if name in found[arm]],
        }
        for name, group in ((group_name(group), group) for group in worst)
    ]
