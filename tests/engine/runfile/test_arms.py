"""The table of arms: each name of the run file has one entry, and what the gate and the page need of it."""

from typing import get_args

import pytest
from pydantic import ValidationError

from engine.report.drawing.charts import MARKS
from engine.report.views.arms import ARMS as SHOWN
from engine.report.views.arms import LOOKS
from engine.runfile.arms import ARMS, BASE, CANDIDATE, ArmName
from engine.runfile.reinforce import ReinforceConfig


def test_every_name_of_the_run_file_is_an_entry_of_the_table() -> None:
    assert tuple(ARMS) == get_args(ArmName)
    assert all(name == arm.name for name, arm in ARMS.items())
    schema = ReinforceConfig.model_json_schema()["properties"]["arms"]
    assert schema["items"]["enum"] == list(ARMS)
    with pytest.raises(ValidationError, match="real_only"):
        ReinforceConfig.model_validate({"arms": ["unheard_of"]})


def test_one_arm_may_ship_and_it_has_edits_and_something_to_be_better_than() -> None:
    assert [name for name, arm in ARMS.items() if arm.may_ship] == [CANDIDATE]
    assert ARMS[CANDIDATE].edits is not None
    assert not ARMS[CANDIDATE].is_baseline
    assert {"real_only", "randaugment", "cutmix", "reweighted"} <= {name for name in ARMS if ARMS[name].is_baseline}
    assert not ARMS["oracle"].is_baseline


def test_the_page_shows_the_base_classifier_and_every_arm_each_with_its_own_mark() -> None:
    assert (BASE, *ARMS) == SHOWN
    assert len({LOOKS[arm].mark for arm in SHOWN}) == min(len(SHOWN), len(MARKS))
    assert LOOKS["real_only"].mark == "square"
