"""Names, meanings and marks of the arms, in the page's order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from engine.report.drawing.charts import MARKS
from engine.runfile.arms import ARMS as TRAINED
from engine.runfile.arms import BASE
from engine.runfile.run import RunFile


@dataclass(frozen=True, kw_only=True)
class ArmLook:
    """An arm's name and meaning, and its mark, which distinguishes it without colour."""

    name: str
    meaning: str
    mark: str


ARMS = (BASE, *TRAINED)
_BASE_WORDS = ("base classifier", "the classifier under test, before any training")
_WORDS = (_BASE_WORDS, *((arm.title, arm.meaning) for arm in TRAINED.values()))
LOOKS = {
    arm: ArmLook(name=name, meaning=meaning, mark=mark)
    for arm, (name, meaning), mark in zip(ARMS, _WORDS, cycle(MARKS), strict=False)
}


def arms_of(run: RunFile) -> Sequence[str]:
    """Return the arms of a run, the base classifier first, in the page's order."""
    return [arm for arm in ARMS if arm == BASE or arm in run.reinforce.arms]
