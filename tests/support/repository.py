"""Where things lie in the repository that the tests are of."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent
DEMO = ROOT / "configs" / "wardrobe.yaml"
# Overrides that leave the demo's verifier its CLIP alone.
ONE_CLIP = tuple(f"stages.verifier.{name}={{}}" for name in ("signals", "floors", "rule"))
# For processes that tests start: the repository first, as its folders mirror those of the tests.
PYTHONPATH = os.pathsep.join([str(ROOT), str(SUPPORT)])
