"""What the page calls the base classifier and the arms, in the order in which it shows them, and how it draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.runfile.arms import ARMS as TRAINED
from engine.runfile.arms import BASE
from engine.runfile.run import RunFile


@dataclass(frozen=True, kw_only=True)
class ArmLook:
    """An arm's name and meaning in words, and the mark that tells it from others where colour does not."""

    name: str
    meaning: str
    mark: str


LOOKS = {BASE: ArmLook(name="patient", meaning="the classifier as it came", mark="circle")} | {
    name: ArmLook(name=arm.title, meaning=arm.meaning, mark=arm.mark) for name, arm in TRAINED.items()
}
ARMS = tuple(LOOKS)


def arms_of(run: RunFile) -> Sequence[str]:
    """Return the arms of a run, the base classifier first, in the page's order."""
    return [arm for arm in ARMS if arm == BASE or arm in run.reinforce.arms]
