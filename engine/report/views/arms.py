"""Names, meanings and marks of the arms, in the page's order."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.runfile.run import RunFile


@dataclass(frozen=True, kw_only=True)
class ArmLook:
    """An arm's name and meaning, and its mark, which distinguishes it without colour."""

    name: str
    meaning: str
    mark: str


LOOKS = {
    "patient": ArmLook(name="patient", meaning="the classifier under test, unchanged", mark="circle"),
    "real_only": ArmLook(name="real only", meaning="the same training steps, without edits", mark="square"),
    "randaugment": ArmLook(name="RandAugment", meaning="without edits, real images distorted", mark="triangle"),
    "cutmix": ArmLook(name="CutMix", meaning="without edits, real images mixed", mark="wedge"),
    "reweighted": ArmLook(name="reweighted", meaning="without edits, errors drawn more often (JTT)", mark="bar"),
    "random_edits": ArmLook(name="random edits", meaning="accepted edits drawn evenly, and real images", mark="plus"),
    "reinforced": ArmLook(
        name="reinforced", meaning="accepted edits drawn by the weakness found, and real images", mark="diamond"
    ),
    "oracle": ArmLook(name="oracle", meaning="real images without the weakness: the upper bound", mark="star"),
}
ARMS = tuple(LOOKS)


def arms_of(run: RunFile) -> Sequence[str]:
    """Return the arms of a run, the patient first, in the page's order."""
    return [arm for arm in ARMS if arm == "patient" or arm in run.reinforce.arms]
