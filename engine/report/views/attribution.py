"""Attribution maps: their file in the run directory, and their overlays, captions and legend on the page."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from engine.probe.attribution import GRID, METHOD, Attribution, map_at
from engine.report.views.arms import SHIPS
from engine.run.directory import RunDirectory
from engine.runfile.arms import BASE
from engine.sample import Json, Sample
from engine.wording import percent, points

FOLDER = "attribution"
# Magenta lowers p(label), blue raises it: distinguishable with every common colour blindness (Nichols 2012).
TAKES, GIVES = (212, 17, 89), (26, 133, 255)
OPACITY = 0.85
# Least value of full strength: a map of noise is drawn faintly.
FAINT = 0.05
MAX_EDGE = 64

View = dict[str, Any]
# What the classifier is called on the page, and its colour: by whether it is the base classifier.
WORDS = {True: "before", False: "after"}
CSS = {True: BASE, False: SHIPS}


def arm_words(arms: Iterable[str]) -> dict[str, str]:
    """Return for each arm whether it stands for before or after the training."""
    return {arm: WORDS[arm == BASE] for arm in arms}


def attribution_path(digest: str) -> str:
    """Return the path of one classifier's maps."""
    return f"{FOLDER}/{digest}.json"


def read_attributions(rundir: RunDirectory, digest: str) -> dict[str, Attribution]:
    """Return one classifier's maps by edit key; empty where there is no file, or one of another method or grid."""
    if not rundir.exists(attribution_path(digest)):
        return {}
    content: Any = rundir.read_json(attribution_path(digest))
    if (content.get("method"), content.get("grid")) != (METHOD, GRID):
        return {}
    return {key: Attribution.from_json(pair) for key, pair in content["pairs"].items()}


def write_attributions(rundir: RunDirectory, digest: str, maps: Mapping[str, Attribution]) -> None:
    """Write one classifier's maps, by edit key."""
    pairs: dict[str, Json] = {key: found.to_json() for key, found in maps.items()}
    rundir.write_json(attribution_path(digest), {"classifier": digest, "method": METHOD, "grid": GRID, "pairs": pairs})


def overlay_uri(cells: Sequence[Sequence[float]], scale: float, size: tuple[int, int]) -> str:
    """Return a map as a transparent PNG in a data URI, of the shape of a picture of (width, height).

    `scale` is the value of full opacity.
    """
    width, height = (max(round(MAX_EDGE * edge / max(size)), 1) for edge in size)
    values = map_at(cells, height, width)
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[..., :3] = np.where(values[..., None] > 0, TAKES, GIVES)
    pixels[..., 3] = np.rint(255 * OPACITY * np.clip(np.abs(values) / max(scale, FAINT), 0, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


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
    shown = {layer["css"]: layer["name"] for layers in overlays.values() for layer in layers}
    return {
        "overlays": overlays,
        "controls": {key: layers[0]["control"] for key, layers in overlays.items()},
        "arms": [{"css": css, "name": shown[css]} for css in CSS.values() if css in shown],
        "takes": _colour(TAKES),
        "gives": _colour(GIVES),
    }


def _overlays(found: Mapping[str, Attribution], sample: Sample) -> list[View]:
    with Image.open(io.BytesIO(sample.image)) as opened:
        size = opened.size
    # One scale for all maps of a picture.
    scale = max(abs(value) for attribution in found.values() for row in attribution.cells for value in row)
    layers = []
    for arm, attribution in found.items():
        change = f"{percent(attribution.p_control, 0)} → {percent(attribution.p_edit, 0)}"
        total = f"{points(-attribution.total, 0)} points"
        layers.append(
            {
                "css": CSS[arm == BASE],
                "name": WORDS[arm == BASE],
                "control": attribution.control,
                "uri": overlay_uri(attribution.cells, scale, size),
                "words": f"probability of the true class {change}; cells sum to {total}",
                "short": f"p {change}, cells {total}",
            }
        )
    return layers


def _colour(rgb: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in rgb)
