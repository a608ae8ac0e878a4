"""The arms: ways to fine-tune the classifier that are compared with each other, one table for the whole project."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ArmName = Literal["real_only", "randaugment", "cutmix", "reweighted", "random_edits", "reinforced", "oracle"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A training strategy: what an arm trains on. Steps, batch size and optimizer are the same for all arms.

    `edits` says how accepted edits are drawn, None where the arm has none: each equally often, or more often the more
    its cell lowers accuracy. `images` are the real images: the train split of the run, or data.oracle. With
    `upweights_errors` those that the base classifier gets wrong are drawn more often (JTT). The gate decides on the arm
    that `may_ship`; `is_key` marks those that the page shows where there is no room for all.

    `title` and `meaning` are its words on the page and in the gate's reasons.
    """

    name: ArmName
    title: str
    meaning: str
    edits: Literal["uniform", "by_weakness"] | None = None
    images: Literal["train", "oracle"] = "train"
    augmentation: Literal["randaugment", "cutmix"] | None = None
    upweights_errors: bool = False
    may_ship: bool = False
    is_key: bool = False

    @property
    def is_bound(self) -> bool:
        """Return whether it trains on images without the weakness: an upper bound, which the run file has to name."""
        return self.images == "oracle"

    @property
    def is_baseline(self) -> bool:
        """Return whether it needs no edits: an arm that ships must be better than it."""
        return self.edits is None and not self.is_bound


_PRESETS = (
    Arm(name="real_only", title="real only", meaning="real images only", is_key=True),
    Arm(name="randaugment", title="RandAugment", meaning="real images under RandAugment", augmentation="randaugment"),
    Arm(name="cutmix", title="CutMix", meaning="real images under CutMix", augmentation="cutmix"),
    Arm(
        name="reweighted",
        title="reweighted",
        meaning="real images with the errors drawn more often",
        upweights_errors=True,
    ),
    Arm(
        name="random_edits",
        title="random edits",
        meaning="real images and accepted edits, each drawn equally often",
        edits="uniform",
    ),
    Arm(
        name="reinforced",
        title="reinforced",
        meaning="real images and accepted edits, drawn by the weakness found",
        edits="by_weakness",
        may_ship=True,
        is_key=True,
    ),
    Arm(
        name="oracle",
        title="oracle",
        meaning="real images without the weakness: an upper bound",
        images="oracle",
        is_key=True,
    ),
)
ARMS: Mapping[str, Arm] = {arm.name: arm for arm in _PRESETS}

# The arm that the gate decides on, and the key under which results have the base classifier beside the arms.
CANDIDATE = next(arm.name for arm in _PRESETS if arm.may_ship)
BASE = "patient"
