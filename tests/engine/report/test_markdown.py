"""The report as Markdown: what a reviewer reads in a pull request, safe with hostile names."""

from pathlib import Path

import pytest
from report_runs import EVIL, finished_run, generated_run

from cluster.cli.main import main
from engine.report.markdown import markdown_report
from engine.report.page import PAGE, SUMMARY, summarise
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile


def markdown(rundir: RunDirectory, run: RunFile) -> str:
    return markdown_report(summarise(rundir, run)[0], run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, RunFile]:
    return finished_run(tmp_path_factory.mktemp("markdown"))


def test_the_verdict_comes_first_then_its_reasons(finished: tuple[RunDirectory, RunFile]) -> None:
    lines = markdown(*finished).splitlines()
    assert lines[0] == "## ✅ Ship the reinforced classifier"
    assert lines[4] == "- A loss of 1.0 points, allowed are 0.5."
    titles = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    assert titles == [
        "Before and after",
        "Each kind of edit, before and after",
        "Where it is weak",
        "What to do next",
        "Cost",
    ]


def test_each_kind_of_edit_has_its_drop_before_and_after(finished: tuple[RunDirectory, RunFile]) -> None:
    assert (
        "| colour | +2.0 (−3.0 to +7.0) | +14.0 (+9.0 to +19.0) | **+12.0** (+7.0 to +17.0) | 40 |"
        in markdown(*finished).splitlines()
    )


def test_before_and_after_is_a_table_with_intervals(finished: tuple[RunDirectory, RunFile]) -> None:
    rows = [line.split(" | ") for line in markdown(*finished).splitlines() if line.startswith("| **")]
    assert [row[0] for row in rows] == [
        "| **Conflict accuracy**",
        "| **Worst-group accuracy**",
        "| **Accuracy as before**",
    ]
    conflict = " ".join(rows[0]).replace("\u202f", " ")
    assert "**20.0 %** (10.5 to 34.8; n 40)" in conflict
    assert "**75.0 %**" in conflict
    assert "; n 20, boot, background snow, worst of 4)" in " ".join(rows[1])
    assert "**+55.0** (+40.0 to +70.0)" in conflict


def test_each_table_has_as_many_cells_in_every_row(finished: tuple[RunDirectory, RunFile]) -> None:
    tables = [part for part in markdown(*finished).split("\n\n") if part.startswith("|")]
    assert tables
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_names_of_users_mean_nothing_to_markdown(finished: tuple[RunDirectory, RunFile]) -> None:
    rundir, run = finished
    hostile = "`x` | <b> @all [a](b)"
    text = rundir.storage.read("weakness.json"), rundir.storage.read("reinforce.json")
    try:
        significant = text[0].replace(b'"significant": false', b'"significant": true')
        rundir.storage.write("weakness.json", significant.replace(b'"snow"', f'"{hostile}"'.encode()))
        rundir.storage.write("reinforce.json", text[1].replace(b"a loss of", f"{EVIL} a loss of".encode()))
        found = markdown(rundir, run)
    finally:
        for name, content in zip(("weakness.json", "reinforce.json"), text, strict=True):
            rundir.storage.write(name, content)
    assert "<script" not in found
    assert "<b>" not in found.replace("\\<b\\>", "")
    assert "\\`x\\` \\| \\<b\\> \\@all \\[a\\](b)" in found
    assert " @all" not in found


def test_a_run_without_results_says_what_to_do(tmp_path: Path) -> None:
    found = markdown(*generated_run(tmp_path, num_shards=1))
    assert found.startswith("## ⏳ No verdict yet")
    assert "1 of 2 shards" in found
    assert "Before and after" not in found


def test_the_command_prints_it_or_writes_it_to_a_file(
    finished: tuple[RunDirectory, RunFile], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rundir, run = finished
    assert main(["report", rundir.storage.root, "--format", "md"]) == 0
    printed = capsys.readouterr().out
    assert printed == markdown(rundir, run)
    assert not rundir.exists(SUMMARY)
    out = tmp_path / "new" / "report.md"
    assert main(["report", rundir.storage.root, "--format", "md", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert out.read_text() == printed
    assert main(["report", rundir.storage.root, "--format", "md", "--out", str(tmp_path)]) == 1
    assert "--out: cannot write" in capsys.readouterr().err
    page = tmp_path / "page.html"
    assert main(["report", rundir.storage.root, "--out", str(page)]) == 0
    assert page.read_bytes() == rundir.storage.read(PAGE)


def test_help_says_which_formats_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    assert "--format {html,md}" in capsys.readouterr().out
