"""The view of the training: results, curves and the accuracy frontier for the template."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from markupsafe import Markup

from engine.report.drawing.charts import Line, line_chart
from engine.report.views.arms import ArmLook
from engine.runfile.arms import BASE
from engine.wording import DASH, count, percent, plain, words

View = dict[str, Any]
IMAGE_NAMES = {"replay": "real ones", "counterfactuals": "accepted edits"}


def training_view(training: Mapping[str, Any] | None, looks: Mapping[str, ArmLook]) -> View | None:
    """Return the training section: results, curves of every arm that was trained, the frontier and the settings."""
    if training is None:
        return None
    known = training.get("arms", {})
    arms = [
        {
            "css": looks[arm].css,
            "name": looks[arm].name,
            "history": list(known[arm].get("history", [])),
            "best": known[arm].get("best_step"),
        }
        for arm in looks
        if arm in known and arm != BASE
    ]
    for arm in arms:
        names_written = (name for line in arm["history"] for name in line if name != "arm")
        arm["columns"] = list(dict.fromkeys(["step", *names_written]))
    columns = dict.fromkeys(name for arm in arms for name in arm["columns"])
    charts = [_curves(arms, name) for name in columns if name == "loss" or "accuracy" in name]
    return {
        "sentence": _sentence(training, arms),
        "results": [_result(look, known[arm]) for arm, look in looks.items() if arm in known],
        "arms": [arm for arm in arms if arm["history"]],
        "charts": [chart for chart in charts if chart],
        "frontier": _frontier(training, looks),
        "settings": [(name, plain(value)) for name, value in (training.get("settings") or {}).items()],
    }


def _result(look: ArmLook, result: Mapping[str, Any]) -> tuple[str, ...]:
    """Return an arm's row: name, both accuracies, the kept weights, and their path."""
    share = result.get("best_share", 1.0)
    kept = plain(result.get("best_step")) if share == 1 else f"{percent(share, 0)} of the way to {result['best_step']}"
    return (
        look.name,
        *(percent(result.get(name)) for name in ("validation_accuracy", "validation_edits_accuracy")),
        kept,
        result.get("model", DASH),
    )


def _curves(arms: Sequence[View], name: str) -> Markup:
    lines = []
    for arm in arms:
        points = [(line["step"], line[name]) for line in arm["history"] if line.get(name) is not None]
        kept = next((point for point in points if point[0] == arm["best"]), None)
        lines.append(Line(css=arm["css"], points=points, highlight=kept))
    return line_chart(lines, title=f"{words(name)} by step", y_label=words(name), percent="accuracy" in name)


def _frontier(training: Mapping[str, Any], looks: Mapping[str, ArmLook]) -> Markup:
    """Draw each arm's accuracy on edits against that on real images, from the base classifier to the last step."""
    known = training.get("arms", {})
    base = _place(known.get(BASE, {}))
    lines = []
    for arm, look in looks.items():
        ways = known.get(arm, {}).get("frontier", [])
        if base is None or not ways:
            continue
        places = [_place(point) for point in (*sorted(ways, key=itemgetter("share")), known[arm]["history"][-1])]
        points = [base, *(place for place in places if place is not None)]
        lines.append(Line(css=look.css, points=points, highlight=_place(known[arm])))
    if not lines or base is None:
        return Markup("")
    allowed = base[0] - training["settings"]["max_accuracy_loss"]
    heights = [y for line in lines for _, y in line.points]
    guard = Line(css="guard", points=[(allowed, min(heights)), (allowed, max(heights))])
    return line_chart(
        [*lines, guard, Line(css=BASE, points=[base])],
        title="accuracy on validation edits by that on real validation images, from the base classifier to each arm",
        y_label="on validation edits",
        x_label="on real validation images",
        percent=True,
        from_zero=False,
    )


def _place(scored: Mapping[str, Any]) -> tuple[float, float] | None:
    real, edits = scored.get("validation_accuracy"), scored.get("validation_edits_accuracy")
    return None if real is None or edits is None else (real, edits)


def _sentence(training: Mapping[str, Any], arms: Sequence[View]) -> str:
    if not arms:
        return "No arm was trained; the base classifier was scored."
    images = training.get("images") or {}
    used = ", ".join(f"{count(int(n))} {IMAGE_NAMES.get(name, words(name))}" for name, n in images.items())
    drawn = f" Images to draw from: {used}." if used else ""
    return (
        f"All arms start from the base classifier and take the same number of steps.{drawn} Which weights were kept "
        f"was chosen on {_choosing(training.get('decision') or {})}."
    )


def _choosing(decision: Mapping[str, Any]) -> str:
    if not decision.get("apart"):
        return "validation data alone"
    chosen, others = (count(decision[f"num_{half}_keys"]) for half in ("choosing", "deciding"))
    return f"the images of {chosen} validation split keys; the verdict rests on those of {others} others"
