"""Credentials are refused where they would be written down, and taken out of what is shown."""

import json
from pathlib import Path

import pytest
from tiny_runs import tiny_plan, tiny_results

from cluster.cli.main import main
from engine.credentials import HIDDEN, redact
from engine.errors import RunFileError
from engine.report.page import write_report
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.load import dump_run_file, load_run_file
from engine.runfile.run import RunFile
from engine.sample import Rejection

PASSWORD = "Tr0ub4dor/3+Zq"
# Made up here, so that no scanner takes this file for a leak.
HUB_TOKEN = "hf" + "_" + "aB3" * 11
KEY_ID = "AKI" + "A" + "Z7" * 8


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    run, _ = tiny_plan(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(dump_run_file(run))
    return path


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"s3://{KEY_ID}:{PASSWORD}@bucket/run", f"s3://{HIDDEN}@bucket/run"),
        (f"GET https://me:{PASSWORD}@host:8080/a.jpg failed", f"GET https://{HIDDEN}@host:8080/a.jpg failed"),
        (
            f"https://h/a?X-Amz-Signature={PASSWORD}&b=1&access_key=abc",
            f"https://h/a?X-Amz-Signature={HIDDEN}&b=1&access_key={HIDDEN}",
        ),
        (f"s3://bucket/run?secret_key={PASSWORD}&region=x", f"s3://bucket/run?secret_key={HIDDEN}&region=x"),
        (f"Authorization: Bearer {HUB_TOKEN}", f"Authorization: Bearer {HIDDEN}"),
        (f"key {KEY_ID} is unknown", f"key {HIDDEN} is unknown"),
    ],
)
def test_credentials_are_taken_out(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/run?region=eu-central-1&endpoint_override=host:9000&scheme=http",
        "http://127.0.0.1:8265/api/a@b.c",
        "abfs://container@account.dfs.core.windows.net/x",
        "a photo of a sneaker on sand: 3 of 4 at 0.5, mail me@example.org",
        "max_new_tokens=32&tokenizer=sk-learn",
        "/data/AKIA/hf_models",
    ],
)
def test_what_holds_none_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_the_secrets_of_the_environment_are_taken_out_whatever_they_look_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_PASSWORD", "open sesame")
    monkeypatch.setenv("MY_SERVICE_TOKEN", "open-sesame")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.setenv("HF_TOKEN_PATH", "plain-words")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert redact(f"no entry: open-sesame, {PASSWORD}, plain-words, token") == (
        f"no entry: {HIDDEN}, {HIDDEN}, plain-words, token"
    )


@pytest.mark.parametrize(
    ("override", "field"),
    [
        (f"data.train.path=https://me:{PASSWORD}@host/x", "data.train.path"),
        (f"data.train=s3://{KEY_ID}:{PASSWORD}@bucket/x", "data.train"),
        (f"probe.model.name=https://host/model?token={PASSWORD}", "probe.model.name"),
        (f"stages.mine={{kind: plugin, target: 'a:B', options: {{api_key: '{PASSWORD}'}}}}", "options.api_key"),
        (f"stages.mine={{kind: plugin, target: 'a:B', options: {{urls: ['{HUB_TOKEN}']}}}}", "options.urls.0"),
        (f"reinforce.deepspeed={{wandb: {{team: '{HUB_TOKEN}'}}}}", "reinforce.deepspeed.wandb.team"),
    ],
)
def test_a_run_file_with_credentials_is_refused_without_repeating_them(
    run_file: Path, override: str, field: str
) -> None:
    with pytest.raises(RunFileError) as caught:
        load_run_file(run_file, [override])
    said = str(caught.value)
    assert f"{field} holds credentials" in said
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert not any(secret in said for secret in (PASSWORD, HUB_TOKEN, KEY_ID))


def test_a_run_file_made_by_a_script_is_refused_too(tmp_path: Path) -> None:
    run, _ = tiny_plan(tmp_path)
    fields = {name: getattr(run, name) for name in RunFile.model_fields}
    train = run.data.train.model_copy(update={"path": f"s3://{KEY_ID}:{PASSWORD}@bucket"})
    with pytest.raises(ValueError, match=r"data\.train\.path holds credentials"):
        RunFile(**fields | {"data": run.data.model_copy(update={"train": train})})


def test_a_deepspeed_file_with_credentials_is_refused(run_file: Path, tmp_path: Path) -> None:
    from engine.training.deepspeed import deepspeed_settings

    (tmp_path / "zero.json").write_text(json.dumps({"comet": {"api_key": PASSWORD}}))
    run = load_run_file(run_file, [f"reinforce.deepspeed={tmp_path / 'zero.json'}"])
    with pytest.raises(RunFileError, match=r"reinforce\.deepspeed: comet\.api_key holds credentials") as caught:
        deepspeed_settings(run.reinforce)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", f"s3://{KEY_ID}:{PASSWORD}@bucket/run"],
        ["run", "run.yaml", f"--out=s3://bucket/run?secret_key={PASSWORD}"],
        ["nothing", f"https://me:{PASSWORD}@host"],
    ],
)
def test_credentials_on_the_command_line_are_refused_with_where_to_put_them(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "~/.aws/credentials" in printed.err
    assert PASSWORD not in printed.err + printed.out


def test_a_planted_secret_is_nowhere_in_a_run_its_report_or_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stage failed with the address that it asked, and with a token of the environment, in its message."""
    monkeypatch.setenv("MY_API_KEY", "correct-horse-battery")
    detail = f"HTTPError: https://me:{PASSWORD}@host/caption for correct-horse-battery: 403"
    run, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    for index in range(plan.num_shards):
        results = tiny_results(plan, index)
        lost = [
            Rejection(key=f"{key}_cf09", source_key=key, stage="mine", reason="stage_error", detail=detail)
            for key in plan.keys(index)
        ]
        commit_shard(rundir, index, plan.keys(index), [*results, *lost], {})
    write_report(rundir, run)
    for command in (["status"], ["verify"], ["report", "--format", "md"], ["show", "--label"]):
        assert main([command[0], rundir.storage.root, *command[1:]]) == 0
    printed = capsys.readouterr()
    written = [path for path in Path(rundir.storage.root).rglob("*") if path.is_file()]
    assert {"index.html", "label.html", "run.json", "run.yaml"} <= {path.name for path in written}
    contents = b"".join(path.read_bytes() for path in written) + (printed.out + printed.err).encode()
    for secret in (PASSWORD, "correct-horse-battery"):
        assert secret.encode() not in contents
    assert {each.detail for each in rundir.read_quarantine(0) if each.stage == "mine"} == {
        f"HTTPError: https://{HIDDEN}@host/caption for {HIDDEN}: 403"
    }
