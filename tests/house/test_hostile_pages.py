"""Text of users in a real browser: shown as text on the report and the label page, and run by neither."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Browser, find_chromium
from report_runs import finished_run
from tiny_runs import tiny_plan, tiny_results

from engine.report.label_page import make_label_page
from engine.report.page import PAGE, write_report
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, marker_path
from engine.sample import Edit, Rejection, Sample

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: install one, or name it in the variable CHROMIUM"
)
# Out of an element, a script, a style, an attribute of either quote, a comment, a URL, a template.
HOSTILE = (
    "</script><script>window.ran = 1</script>"
    "</style><style>main { display: none }</style>"
    "\"><img src=x onerror='window.ran = 1'>' onmouseover='window.ran = 1' x='"
    "<!--<script>javascript:window.ran = 1"
    "<base href='//example.invalid'><meta http-equiv=refresh content='0;url=//example.invalid'>"
    "{{ 6 * 7 }}\u2028${6 * 7}`"
)
PLANTED = "<script>window.ran = 1</script><img src='https://example.invalid/x.png' onerror='window.ran = 1'>"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with Browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def rundir(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Return a finished run in which every text of a user's is hostile."""
    rundir, run = finished_run(tmp_path_factory.mktemp("hostile"))
    _, plan = tiny_plan(tmp_path_factory.mktemp("again"))
    for index in range(plan.num_shards):
        rundir.storage.delete(marker_path(index))
        results = [made_hostile(result) for result in tiny_results(plan, index)]
        commit_shard(rundir, index, plan.keys(index), results, {})
    told = json.dumps(HOSTILE)[1:-1].encode()
    for name in ("weakness.json", "evaluation.json", "reinforce.json"):
        text = rundir.storage.read(name)
        for word in (b'"boot"', b'"snow"'):
            text = text.replace(word, b'"' + told + b'"')
        rundir.storage.write(name, text.replace(b"a loss of", told + b" a loss of"))
    write_report(rundir, run)
    rundir.storage.local_path("label.html").write_text(make_label_page(rundir, 4).html)
    return rundir


def made_hostile(result: Sample | Rejection) -> Sample | Rejection:
    if isinstance(result, Rejection):
        return replace(result, reason="not_json", detail=HOSTILE)
    edit = result.edit and Edit(
        kind=result.edit.kind, before=HOSTILE, after=HOSTILE, instruction=HOSTILE, caption=HOSTILE
    )
    provenance = {"source": HOSTILE, "editor": {"seed": 5, "model": HOSTILE}}
    changes = {"caption": HOSTILE, "class_name": HOSTILE, "attributes": {"background": HOSTILE, HOSTILE: "x"}}
    return replace(result, edit=edit, provenance=provenance, **changes)


@pytest.mark.parametrize(("name", "places"), [(PAGE, ("#weak", "#pictures", "header")), ("label.html", ("#pair",))])
def test_hostile_text_is_seen_and_does_nothing(
    window: Browser, rundir: RunDirectory, name: str, places: tuple[str, ...]
) -> None:
    page = rundir.storage.local_path(name)
    window.open(page)
    window.run('document.querySelectorAll("details, dialog").forEach((each) => { each.open = true; })')
    for place in places:
        text = window.run(f"document.querySelector({place!r}).textContent")
        assert "</script><script>window.ran = 1</script>" in text
        assert "{{ 6 * 7 }}" in text
    assert window.run("window.ran") is None
    assert window.run('document.querySelector("main").checkVisibility()')
    assert window.run('document.querySelectorAll("base, [onerror], [onmouseover], [http-equiv=refresh]").length') == 0
    # Nothing was stopped by the policy either: it got no text that was more than text.
    assert window.complaints() == []
    assert [address for address in window.requests() if not address.startswith("data:")] == [page.as_uri()]


@pytest.mark.parametrize("name", [PAGE, "label.html"])
def test_the_policy_stops_what_an_escape_might_miss(
    window: Browser, rundir: RunDirectory, tmp_path: Path, name: str
) -> None:
    page = tmp_path / "planted.html"
    text = rundir.storage.local_path(name).read_text()
    page.write_text(text.replace("<main>", f"<base href='https://example.invalid/'>{PLANTED}<main>", 1))
    window.open(page)
    assert window.run("window.ran") is None
    assert window.run("document.baseURI") == page.as_uri()
    said = " ".join(window.complaints())
    for directive in ("script-src", "img-src", "base-uri"):
        assert f"{directive} " in said
    free = tmp_path / "free.html"
    free.write_text(page.read_text().replace("Content-Security-Policy", "nothing"))
    window.open(free)
    assert window.run("window.ran") == 1
