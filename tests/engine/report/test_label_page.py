"""The labelling page: blind, seeded, safe with hostile text, and its CSV is what the calibration reads."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report_runs import EVIL, generated_run
from scored_runs import scored_run

from engine.errors import RunDirectoryError, ShardError
from engine.report.label_page import LabelPage, choose_pairs, make_label_page, render_label_page
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.sample import Sample
from engine.selection.labels import match_labels, read_label_rows
from engine.selection.selection import read_scored, thresholds_of

LOOSE = {"min_image": 0.2, "min_text": 0.1, "min_directional": 0.1}
# Just enough of a browser for the page's script: elements with text and listeners, storage, and the saved file.
BROWSER = """
const fs = require("fs");
const [script, data, keys, stored] = process.argv.slice(2);
const elements = {}; let pressed; const saved = stored ? { [stored.split("\\n")[0]]: stored.split("\\n")[1] } : {};
const make = () => ({
  textContent: "", hidden: false, focus() {}, click() {}, remove() {},
  addEventListener(kind, act) { this[kind] = act; },
});
global.document = {
  getElementById: (id) => (elements[id] ??= make()), createElement: make, body: { append() {} },
  addEventListener: (kind, act) => { pressed = act; },
};
global.localStorage = { getItem: (name) => saved[name] ?? null, setItem: (name, text) => { saved[name] = text; } };
let file = ""; global.Blob = class { constructor(parts) { file = parts.join(""); } };
global.URL = { createObjectURL: () => "blob:", revokeObjectURL() {} }; global.setTimeout = () => {};
document.getElementById("data").textContent = fs.readFileSync(data, "utf8");
eval(fs.readFileSync(script, "utf8"));
const seen = [elements.title.textContent];
for (const key of keys.split(" ").filter(Boolean)) {
  const [name, held] = key.split(":");
  pressed({ key: name, repeat: Boolean(held), preventDefault() {} });
  seen.push(elements.title.textContent);
}
elements.save.click();
const done = !elements.done.hidden;
console.log(JSON.stringify({ count: elements.count.textContent, csv: file, seen, done, saved }));
"""


def data_of(page: LabelPage) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.html, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def edits_of(rundir: RunDirectory) -> list[Sample]:
    samples = [one for index in rundir.done() for one in (*rundir.read_shard(index), *rundir.read_rejected(index))]
    return [one for one in samples if one.role == "counterfactual"]


def press(tmp_path: Path, page: LabelPage, keys: str, stored: str = "") -> dict[str, Any]:
    """Run the page's script in node, press keys and save."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node runs the page's script; it is not installed")
    (tmp_path / "browser.js").write_text(BROWSER)
    (tmp_path / "data.json").write_text(json.dumps(data_of(page)))
    (tmp_path / "page.js").write_text(page.html.rsplit("<script>", 1)[1].split("</script>")[0])
    command = [node, "browser.js", "page.js", "data.json", keys, stored]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_the_page_loads_nothing_and_may_run_its_own_script_alone(tmp_path: Path) -> None:
    page = make_label_page(scored_run(tmp_path, **LOOSE), 10)
    assert not re.search(r"(src|href)=\"(?!data:)[^\"]+\"|url\(|@import|https?://", page.html)
    script = page.html.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f"{policy}; base-uri 'none'; form-action 'none'" in page.html
    assert re.search(r'<meta name="viewport"', page.html)
    assert "prefers-color-scheme: dark" in page.html


def test_each_pair_has_its_pictures_and_what_was_asked(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    data = data_of(make_label_page(rundir, 10))
    known = {edit.key: edit for edit in edits_of(rundir)}
    assert len(data["pairs"]) == 10
    for pair in data["pairs"]:
        edit = known[pair["key"]]
        assert pair["instruction"] == "put it on snow"
        assert base64.b64decode(data["images"][pair["key"]].split(",")[1]) == edit.image
        assert data["images"][pair["source"]].startswith("data:image/jpeg;base64,")


def test_the_page_tells_no_verdict_and_no_score(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    page = make_label_page(rundir, 36)
    assert not re.search(r"accepted|rejected|directional|text_edit", page.html)
    # Nor does the order: accepted and rejected ones alternate no more than by chance.
    accepted = {edit.key: edit.verdict.accepted for edit in edits_of(rundir) if edit.verdict}
    order = [accepted[pair["key"]] for pair in data_of(page)["pairs"]]
    changes = sum(one != other for one, other in pairwise(order))
    assert 5 < changes < 30


def test_the_sample_takes_from_each_kind_and_verdict_in_turn(tmp_path: Path) -> None:
    page = make_label_page(scored_run(tmp_path, min_image=0.5, min_text=0.0, min_directional=0.0), 8)
    assert page.strata == {
        "accepted background": 2, "accepted colour": 2, "rejected background": 2, "rejected colour": 2,
    }  # fmt: skip


def test_the_sample_takes_from_each_editor_in_turn_and_the_page_does_not_say_which(tmp_path: Path) -> None:
    edits = edits_of(scored_run(tmp_path, **LOOSE))
    drawn = [
        replace(edit, edit=replace(edit.edit, strategy="swap" if number % 6 == 0 else "instruct"))
        for number, edit in enumerate(edits)
        if edit.edit is not None
    ]
    chosen = choose_pairs(drawn, 12, 0)
    strata, all_strata = (
        {(edit.is_accepted, edit.edit.kind, edit.edit.strategy) for edit in some if edit.edit}
        for some in (chosen, drawn)
    )
    assert strata == all_strata
    assert {strategy for *_, strategy in strata} == {"swap", "instruct"}
    sources = {edit.source_key: replace(edit, key=edit.source_key, edit=None, role="source") for edit in chosen}
    page = render_label_page("run", "digest", chosen, sources)
    assert "by swap" not in page


def test_the_sample_is_seeded_and_a_larger_one_holds_it(tmp_path: Path) -> None:
    edits = edits_of(scored_run(tmp_path, **LOOSE))
    chosen = [[edit.key for edit in choose_pairs(some, 12, 0)] for some in (edits, edits[::-1])]
    assert chosen[0] == chosen[1]
    assert set(chosen[0]) != {edit.key for edit in choose_pairs(edits, 12, 1)}
    assert set(chosen[0]) < {edit.key for edit in choose_pairs(edits, 20, 0)}
    assert Counter(chosen[0]).most_common(1)[0][1] == 1


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    rundir, _ = generated_run(tmp_path)
    page = make_label_page(rundir, 10)
    assert EVIL not in page.html
    assert data_of(page)["pairs"][0]["instruction"] == EVIL


def test_rejected_edits_without_pixels_are_counted(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, keep_rejected="metadata", **LOOSE)
    page = make_label_page(rundir, 100)
    rejected = [edit for edit in edits_of(rundir) if edit.verdict and not edit.verdict.accepted]
    assert page.num_without_picture == len(rejected) > 0
    assert set(page.strata) == {"accepted background", "accepted colour"}


def test_a_run_with_nothing_to_show_is_refused(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, shards=[])
    with pytest.raises(RunDirectoryError, match="counterforge generate"):
        make_label_page(rundir, 10)
    plan = rundir.plan()
    sources = [one for index in (0,) for one in _sources(rundir, index)]
    commit_shard(rundir, 0, plan.keys(0), sources, {})
    with pytest.raises(ShardError, match="no picture of a counterfactual"):
        make_label_page(rundir, 10)


def test_keys_make_the_csv_that_the_calibration_reads(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    page = make_label_page(rundir, 4)
    pairs = data_of(page)["pairs"]
    # Right, b, a wrong answer that is taken back, a key held down, g, left.
    result = press(tmp_path, page, "ArrowRight b g u g:held ArrowLeft G")
    assert result["count"] == "4 of 4 · 2 good, 2 bad"
    assert result["done"]
    table = tmp_path / "labels.csv"
    table.write_text(result["csv"])
    labels = match_labels(read_label_rows(table), read_scored(rundir), thresholds_of(rundir.run()))
    assert labels.unusable == {}
    expected = dict(zip([pair["key"] for pair in pairs], [True, False, False, True], strict=True))
    assert {row.candidate.key: row.is_good for row in labels.rows} == expected


def test_a_skipped_pair_comes_again_at_the_end(tmp_path: Path) -> None:
    page = make_label_page(scored_run(tmp_path, **LOOSE), 3)
    keys = [pair["key"] for pair in data_of(page)["pairs"]]
    result = press(tmp_path, page, "s g b ArrowDown g")
    assert result["csv"].splitlines()[1:] == sorted(result["csv"].splitlines()[1:])
    said = dict(line.split(",")[:2] for line in result["csv"].splitlines()[1:])
    assert said == {keys[0]: "good", keys[1]: "good", keys[2]: "bad"}


def test_answers_are_kept_and_a_larger_page_of_the_run_goes_on(tmp_path: Path) -> None:
    rundir = scored_run(tmp_path, **LOOSE)
    first = press(tmp_path, make_label_page(rundir, 3), "g b")
    ((name, text),) = first["saved"].items()
    assert rundir.info.digest in name
    again = press(tmp_path, make_label_page(rundir, 5), "", stored=f"{name}\n{text}")
    assert again["count"] == "2 of 5 · 1 good, 1 bad"
    undone = press(tmp_path, make_label_page(rundir, 5), "Backspace u u", stored=f"{name}\n{text}")
    assert undone["count"] == "0 of 5 · 0 good, 0 bad"


def _sources(rundir: RunDirectory, index: int) -> list[Sample]:
    from scored_runs import scored_group

    config = thresholds_of(rundir.run())
    groups = [scored_group(item.key, item.label, config) for item, _ in rundir.plan().shard(index)]
    return [one for group in groups for one in group if isinstance(one, Sample) and one.role == "source"]
