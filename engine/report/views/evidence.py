"""Attribution maps for the template: overlays, their captions, and the legend."""

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from engine.probe.attribution import Attribution
from engine.report.views.attribution import GIVES, TAKES, overlay_uri, strongest
from engine.sample import Sample
from engine.wording import percent, points

View = dict[str, Any]
ARM_WORDS = {"patient": "before", "reinforced": "after"}


def evidence_view(
    summary: Mapping[str, Any], pictures: Mapping[str, Sample], maps: Mapping[str, Mapping[str, Attribution]]
) -> View | None:
    """Return the overlays by edit key, their captions and the legend; None where no shown picture has a map."""
    overlays = {}
    for row in summary["pictures"]:
        for picture in row["pictures"]:
            found = {arm: maps[arm][picture["key"]] for arm in picture["attribution"]}
            if found and pictures[picture["key"]].image:
                overlays[picture["key"]] = _overlays(found, pictures[picture["key"]])
    if not overlays:
        return None
    arms = [arm for arm in ARM_WORDS if any(layer["css"] == arm for layers in overlays.values() for layer in layers)]
    return {
        "overlays": overlays,
        "controls": {key: maps[layers[0]["css"]][key].control for key, layers in overlays.items()},
        "arms": [{"css": arm, "name": ARM_WORDS[arm]} for arm in arms],
        "takes": _colour(TAKES),
        "gives": _colour(GIVES),
    }


def _overlays(found: Mapping[str, Attribution], sample: Sample) -> list[View]:
    with Image.open(io.BytesIO(sample.image)) as opened:
        size = opened.size
    scale = strongest(list(found.values()))
    return [
        {
            "css": arm,
            "name": ARM_WORDS[arm],
            "uri": overlay_uri(attribution.cells, scale, size),
            "words": describe(attribution),
            "short": f"p {percent(attribution.p_control, 0)} → {percent(attribution.p_edit, 0)}, cells "
            f"{points(-attribution.total, 0)} points",
        }
        for arm, attribution in found.items()
    ]


def describe(attribution: Attribution) -> str:
    """Return the change of p(label) and the sum over cells in words."""
    return (
        f"probability of the true class {percent(attribution.p_control, 0)} → {percent(attribution.p_edit, 0)}; "
        f"cells sum to {points(-attribution.total, 0)} points"
    )


def _colour(rgb: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in rgb)
