"""The proof of rounds: two arms that differ in nothing but how many sources they edit, and how."""

from repository import DEMO as RUN_FILE

from cluster.studies.proofs.rounds import trial_run
from engine.plan.plan import make_plan
from engine.rounds.allocation import shards_by_round


def test_the_arms_differ_in_sources_and_rounds_alone() -> None:
    uniform, adaptive = trial_run(RUN_FILE, 3, 120, 1).model_dump(), trial_run(RUN_FILE, 3, 60, 3).model_dump()
    assert (uniform["data"].pop("num_sources"), adaptive["data"].pop("num_sources")) == (120, 60)
    assert (uniform.pop("rounds")["count"], adaptive.pop("rounds")["count"]) == (1, 3)
    assert uniform == adaptive
    assert uniform["seed"] == 3


def test_both_arms_have_the_same_yardstick_and_the_adaptive_sources_are_among_the_others() -> None:
    uniform, adaptive = (make_plan(trial_run(RUN_FILE, 0, *arm)) for arm in ((48, 1), (24, 3)))

    def keys(plan: object, split: str) -> set[str]:
        return {item.item.key for index in range(plan.num_shards) for item in plan.shard(index) if item.split == split}

    assert keys(uniform, "validation") == keys(adaptive, "validation")
    assert keys(adaptive, "train") < keys(uniform, "train")
    assert len(shards_by_round(adaptive, trial_run(RUN_FILE, 0, 24, 3).rounds)) == 3
