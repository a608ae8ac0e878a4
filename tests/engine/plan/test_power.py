"""The smallest drop that a plan says it detects is found in about 80 % of simulated runs of the very test."""

import numpy as np
import pytest

from engine.plan.plan import make_plan
from engine.plan.power import detectable_drop, power_lines
from engine.runfile.run import RunFile
from engine.statistics import paired_test


@pytest.mark.parametrize(
    ("num_sources", "noise", "min_drop", "num_tests", "expected"),
    [(40, 0.1, 0.0, 1, 0.294), (40, 0.3, 0.05, 1, 0.44), (92, 0.1, 0.05, 22, 0.314), (400, 0.3, 0.05, 1, 0.145)],
)
def test_the_smallest_drop_is_found_with_a_power_of_80_per_cent(
    num_sources: int, noise: float, min_drop: float, num_tests: int, expected: float
) -> None:
    drop = detectable_drop(num_sources, noise, min_drop=min_drop, num_tests=num_tests)
    assert drop == pytest.approx(expected)
    rng = np.random.default_rng(0)
    allowed = np.full(num_sources, min_drop) if min_drop else None
    found = 0
    for _ in range(800):
        draw = rng.random(num_sources)
        net = np.where(draw < noise / 2 + drop, -1.0, np.where(draw < noise + drop, 1.0, 0.0))
        found += net.sum() < 0 and num_tests * paired_test(net, allowed) <= 0.05
    assert 0.77 <= found / 800 <= 0.91


def test_where_no_drop_could_be_found_it_says_so() -> None:
    assert detectable_drop(20, 0.3, min_drop=0.05, num_tests=22) is None


def test_a_plan_says_what_its_sources_and_validation_images_can_show() -> None:
    run = RunFile.model_validate(
        {
            "name": "demo",
            "data": {
                "train": {"kind": "wardrobe", "count": 2000},
                "num_sources": 340,
                "num_validation_sources": 60,
                "splits": {"train": 0.6, "validation": 0.4, "test": 0.0},
            },
            "stages": {
                "captioner": {"kind": "captioner", "model": {"name": "zoo/captioner"}},
                "perturber": {"kind": "perturber", "model": {"name": "zoo/perturber"}, "edits": {"background": 2}},
                "editor": {"kind": "editor", "model": {"name": "zoo/editor"}},
                "verifier": {"kind": "verifier", "model": {"name": "zoo/verifier"}},
            },
            "probe": {"model": {"name": "zoo/patient"}},
        }
    )
    text = "\n".join(power_lines(run, make_plan(run)))
    assert "all edits, or one kind alone: 12 or 14 on 400 sources" in text
    assert "as the only weak cell of 11 (Benjamini-Hochberg): a kind in a class" in text
    assert "one value 50 or 60 on 40" in text
    assert "reinforce.max_accuracy_loss is 0.5, less than that error: only weights that gain pass the choice" in text
