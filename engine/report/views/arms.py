"""Names, meanings, colours and marks of a run's arms, in the page's order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.report.drawing.charts import MARKS
from engine.runfile.arms import BASE, PRESETS, title_of
from engine.runfile.reinforce import ReinforceConfig

# The style sheet has a colour for each; the arm that may ship has that of `reinforced`.
COLOURS = (BASE, *PRESETS)
SHIPS = "reinforced"


@dataclass(frozen=True, kw_only=True)
class ArmLook:
    """An arm's name and meaning, its colour as a CSS class, and its mark, which distinguishes it without colour."""

    name: str
    meaning: str
    css: str
    mark: str


def looks_of(summary: Mapping[str, Any], config: ReinforceConfig) -> Mapping[str, ArmLook]:
    """Return the look of each arm, the base classifier first, then those of the run file, then others with results.

    An arm of a preset's name has the preset's colour.
    """
    meanings = {name: arm.meaning for name, arm in config.arms.items()}
    results = (*(summary["training"] or {}).get("arms", {}), *summary["accuracy_biased"])
    meanings |= {name: "no longer in the run file" for name in results if name != BASE and name not in meanings}
    colours = {BASE: BASE, config.ships: SHIPS}
    colours |= {name: name for name in meanings if name in PRESETS and name not in (config.ships, SHIPS)}
    free = [css for css in COLOURS if css not in colours.values()]
    others = [name for name in meanings if name not in colours]
    # With more arms than colours they are used again, each time with the next mark.
    colours |= {name: (free or COLOURS)[place % len(free or COLOURS)] for place, name in enumerate(others)}
    marks = list(MARKS)
    looks = {BASE: ("base classifier", "the classifier under test, before any training")}
    looks |= {name: (title_of(name), meaning) for name, meaning in meanings.items()}
    used: dict[str, int] = {}
    found = {}
    for arm, (name, meaning) in looks.items():
        css = colours[arm]
        used[css] = used.get(css, -1) + 1
        mark = marks[(COLOURS.index(css) + used[css]) % len(marks)]
        found[arm] = ArmLook(name=name, meaning=meaning, css=css, mark=mark)
    return found
