"""The linear probe: does a linear classifier on the frozen features know the class where the classifier fails?"""

import math
from dataclasses import asdict, dataclass

from engine.sample import Json

# Of the accuracy that the classifier loses on edits, the shares that a probe must win back: above the second the head
# suffices, below the first the features do not know the class.
FEW, MOST = 0.2, 0.8
NUM_ERRORS = 2.0


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """The accuracy on validation edits of a linear classifier, fitted on the features of train images and edits.

    `base_accuracy` is that of the classifier there, `base_real_accuracy` on real validation images, `chance` the share
    of the most frequent class among the `num_edits`. Alain & Bengio 2016.
    """

    accuracy: float
    base_accuracy: float
    base_real_accuracy: float
    chance: float
    num_edits: int
    num_features: int

    def to_json(self) -> dict[str, Json]:
        """Return its numbers and its sentence."""
        return asdict(self) | {"sentence": self.sentence}

    @property
    def sentence(self) -> str:
        """Return what the probe says, and what follows for the head."""
        return (
            f"a linear probe on the {self.num_features:,} frozen features gets {100 * self.accuracy:.1f} % of the "
            f"{self.num_edits:,} validation edits right, the classifier {100 * self.base_accuracy:.1f} %: "
            f"{self._meaning}"
        )

    @property
    def _meaning(self) -> str:
        error = math.sqrt(self.chance * (1 - self.chance) / self.num_edits)
        lost = max(0.0, self.base_real_accuracy - self.base_accuracy)
        if self.accuracy <= self.chance + NUM_ERRORS * error:
            return (
                f"no better than to guess the most frequent class ({100 * self.chance:.1f} %), so the features say "
                "nothing of the labels; look whether labels belong to their images"
            )
        if self.accuracy >= self.base_accuracy + MOST * lost:
            return "the features know the class, so the head alone suffices"
        if self.accuracy <= self.base_accuracy + FEW * lost:
            return "the features do not know the class of edits, so no head helps: train all layers"
        return "the features know the class of edits in part, so the head alone is not enough"
