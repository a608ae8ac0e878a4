from pathlib import Path

import pytest
from tint_runs import tint_run, write_images

from cluster.cli.main import main
from cluster.preflight.preflight import preflight, refuse_problems
from engine.errors import PreflightError
from engine.plan.plan import make_plan
from engine.runfile.fields import ModelConfig
from engine.runfile.load import dump_run_file


def test_a_missing_test_set_is_said_before_hours_are_spent(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images"))
    plan = make_plan(run)
    (problem,) = preflight(run, plan).problems
    assert "no test image" in problem
    with pytest.raises(PreflightError, match="no test image"):
        refuse_problems(run, plan, ("generate", "probe", "reinforce"))
    refuse_problems(run, plan, ("generate", "probe"))


def test_plan_ends_with_the_problems_and_run_makes_no_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file, out = tmp_path / "run.yaml", tmp_path / "run"
    run_file.write_text(dump_run_file(tint_run(write_images(tmp_path / "images"))))
    assert main(["plan", str(run_file), "--out", str(out)]) == 2
    *_, title, problem = capsys.readouterr().out.splitlines()
    assert title == "problems"
    assert "no test image" in problem
    assert main(["run", str(run_file), "--out", str(out)]) == 2
    assert "no test image" in capsys.readouterr().err
    assert not out.exists()


def test_deepspeed_settings_are_checked_at_plan_line_by_line(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images"))
    settings = run.reinforce.model_copy(update={"deepspeed": {"gradient_clipping": "auto", "zero_optimization": 2}})
    model = run.probe.model_copy(update={"model": ModelConfig(name="zoo/patient"), "callable": None})
    run = run.model_copy(update={"reinforce": settings, "probe": model})
    found = [line for line in preflight(run, make_plan(run)).problems if "deepspeed" in line]
    assert [line.partition(":")[0] for line in found] == [
        "reinforce.deepspeed",
        "reinforce.deepspeed.zero_optimization is 2",
    ]
    assert "set gradient_clipping (0 for none, or 1.0, which is the Trainer's default)" in found[0]
