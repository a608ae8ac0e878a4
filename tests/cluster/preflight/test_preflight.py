from pathlib import Path

import pytest
from tint_runs import tint_run, write_images

from cluster.cli.main import main
from cluster.preflight.preflight import preflight, refuse_problems
from engine.errors import PreflightError
from engine.plan.plan import make_plan
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


def test_a_file_that_a_function_is_known_by_must_be_there(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images"))
    plan = make_plan(run)
    (tmp_path / "model.onnx").touch()
    files = (str(tmp_path / "model.onnx"), str(tmp_path / "gone.onnx"))
    probe = run.probe.model_copy(update={"files": files})
    (problem,) = preflight(run.model_copy(update={"probe": probe}), plan, ("probe",)).problems
    assert problem == f"probe.files: there is no {files[1]}: name files that decide what probe.callable answers"
