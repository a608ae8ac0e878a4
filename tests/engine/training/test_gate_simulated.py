"""How often the gate ships a classifier that is as good as its base one, and one that truly lost too much.

794 split keys of two images (the validation images of the demo), 11 candidates of one true loss whose answers agree on
70 % of the images, 2.5 % of the answers changed, 1.0 points allowed. The gate's docstring has the rates of other rules.
"""

import numpy as np
import pytest

from engine.runfile.arms import PRESETS
from engine.runfile.reinforce import ReinforceConfig
from engine.training.gate import Gate, Score

NUM_KEYS, NUM_CANDIDATES, CHANGED, NUM_RUNS = 794, 11, 0.025, 150
GROUPS = [f"garment {number // 2}" for number in range(2 * NUM_KEYS)]
CONFIG = ReinforceConfig(max_accuracy_loss=0.01)


@pytest.mark.parametrize(("true_loss", "least", "most"), [(0.002, 0.8, 1.0), (0.015, 0.0, 0.08)])
def test_rate_of_shipping_by_true_loss(true_loss: float, least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    shipped = sum(_ships(true_loss, rng) for _ in range(NUM_RUNS))
    assert least <= shipped / NUM_RUNS <= most


def _ships(true_loss: float, rng: np.random.Generator) -> bool:
    """Return whether the best of the candidates on the choosing half passes both conditions on real images."""
    base = rng.random(2 * NUM_KEYS) < 0.91
    gate = Gate(base=Score(real=_marks(base)), config=CONFIG, real_groups=GROUPS, edit_groups=())
    shared = rng.random(2 * NUM_KEYS)
    candidates = []
    for _ in range(NUM_CANDIDATES):
        draw = np.where(rng.random(2 * NUM_KEYS) < 0.7, shared, rng.random(2 * NUM_KEYS))
        lost, gained = (CHANGED + true_loss) / 2 / 0.91, (CHANGED - true_loss) / 2 / 0.09
        candidates.append(Score(real=_marks(np.where(base, draw >= lost, draw < gained))))
    best = max(candidates, key=lambda score: gate.rank(score, PRESETS["reinforced"]))
    # Without edits nothing ships: only that reason may be left.
    return len(gate.decide({"reinforced": best}, NUM_CANDIDATES).reasons) == 1


def _marks(right: np.ndarray) -> str:  # type: ignore[type-arg]
    return "".join("1" if one else "0" for one in right)
