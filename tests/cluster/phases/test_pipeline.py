"""A whole run through all phases, and what is done again when it is started again."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tint_runs import tint_run, write_images
from tiny_runs import tiny_plan

from cluster.cli.main import main
from cluster.phases.phase import Phase, PhaseLog
from cluster.phases.pipeline import all_phases, model_stamp
from engine.errors import SourceError
from engine.plan.plan import make_plan
from engine.run.directory import RunDirectory
from engine.runfile.load import dump_run_file
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile


def phase(digest: str | None, there: bool = True, run: Callable[[], object] = lambda: None) -> Phase:
    return Phase(name="probe", needs=(), is_there=lambda: there, digest=lambda: digest, run=run)


@pytest.fixture
def rundir(tmp_path: Path) -> RunDirectory:
    run, plan = tiny_plan(tmp_path)
    return RunDirectory.create(str(tmp_path / "run"), run, plan)


def test_a_phase_is_done_for_the_same_inputs_only(rundir: RunDirectory) -> None:
    with PhaseLog(rundir).timed(phase("a")):
        pass
    log = PhaseLog(rundir)
    assert log.is_done(phase("a"))
    assert not log.is_done(phase("b"))
    assert not log.is_done(phase("a", there=False))
    assert log.is_done(phase(None))


def test_seconds_add_up_over_resumes_also_of_failures(rundir: RunDirectory) -> None:
    log = PhaseLog(rundir)
    log.add("probe", 10.0)
    with pytest.raises(SourceError), PhaseLog(rundir).timed(phase("a")):
        raise SourceError("gone")
    content = rundir.read_json("phases.json")
    assert isinstance(content, dict)
    assert content["digests"] == {}
    assert isinstance(content["seconds"], dict)
    assert 10 <= float(str(content["seconds"]["probe"])) < 20


def test_another_setting_changes_only_the_phases_that_read_it(rundir: RunDirectory, tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images"))
    plan = make_plan(run)

    def digests(**changes: object) -> dict[str, str | None]:
        changed = RunFile.model_validate(run.model_dump() | changes)
        return {each.name: each.digest() for each in all_phases(changed, rundir, plan)}

    def differing(**changes: object) -> Sequence[str]:
        return [name for name, digest in digests(**changes).items() if digest != digests()[name]]

    assert differing() == []
    assert differing(report={"num_rows": 3}) == ["report"]
    assert differing(report={"num_attributions": 3}) == ["probe", "reinforce", "report"]
    assert differing(reinforce={"num_steps": 7}) == ["reinforce", "report"]
    assert differing(reinforce={"max_failures": 9}) == []
    assert differing(probe={"callable": "tiny_stages:always_first", "placement": {"num_cpus": 2}}) == []
    assert differing(probe={"callable": "tiny_stages:other"}) == ["probe", "reinforce", "report"]


def test_a_function_is_probed_again_where_its_code_its_files_or_its_version_changed(
    rundir: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tint_run(write_images(tmp_path / "images"))
    plan = make_plan(run)
    monkeypatch.syspath_prepend(tmp_path)
    code, weights = tmp_path / "mine_box.py", tmp_path / "model.onnx"
    code.write_text("def ask(images): return 1")
    weights.write_bytes(b"one")
    probe = ProbeConfig(callable="mine_box:ask", files=(str(weights),))

    def digest(**changes: object) -> str | None:
        changed = run.model_copy(update={"probe": probe.model_copy(update=changes)})
        return next(each.digest() for each in all_phases(changed, rundir, plan) if each.name == "probe")

    found = [digest(), digest(version=2)]
    weights.write_bytes(b"another")
    found.append(digest())
    code.write_text("def ask(images): return 22")
    found.append(digest())
    assert len(set(found)) == 4
    assert digest() == found[-1]


def test_a_model_that_changes_under_its_name_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = model_stamp(str(tmp_path))
    assert before == model_stamp(str(tmp_path))
    (tmp_path / "config.json").write_text("{} ")
    assert model_stamp(str(tmp_path)) != before
    assert model_stamp("owner/name-on-the-hub") is None


@pytest.mark.slow
def test_a_whole_run_is_not_done_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run_file, out = tmp_path / "run.yaml", tmp_path / "run"
    run_file.write_text(dump_run_file(tint_run(write_images(tmp_path / "images"), grouped=True)))
    command = ["run", str(run_file), "--out", str(out), "--set", "data.splits={train: 0.6, validation: 0.0, test: 0.4}"]
    command += ["--set", "probe.min_sources=2"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {out}/report/index.html"
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert summary["counts"]["candidates"] > 0
    assert summary["seconds"].keys() >= {"plan", "generate", "probe", "reinforce"}
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.suffix in (".tar", ".html")}
    caplog.clear()
    with caplog.at_level(logging.INFO, "cluster"):
        assert main(command) == 0
    for name in ("generate", "probe", "reinforce", "report"):
        assert f"{name}: nothing to do" in caplog.text
    assert "starting Ray" not in caplog.text
    assert {path: path.stat().st_mtime_ns for path in written} == written
    # One damaged shard is made again, with the bytes that it had, and nothing else.
    damaged = out / "shards" / "000001.tar"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:700] + b"!" + data[701:])
    assert main(["verify", str(out), "--redo"]) == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "cluster"):
        assert main(command) == 0
    assert "generate: started" in caplog.text
    for name in ("probe", "reinforce", "report"):
        assert f"{name}: nothing to do" in caplog.text
    assert damaged.read_bytes() == data
    again = {path for path in written if path.stat().st_mtime_ns != written[path]}
    assert {path.name for path in again} == {"000001.tar"}
    assert main(["verify", str(out)]) == 0
