"""The page: one file that needs nothing else, safe with hostile text, readable without colour, plain about gaps."""

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from odd_pictures import ADOBE_RGB, rgb_profile
from PIL import Image
from report_runs import EVIL, evaluation, finished_run, generated_run, predictions
from repository import ROOT
from tiny_runs import CLASSES, tiny_group

from engine.errors import RunDirectoryError
from engine.probe.findings import ClassifierPredictions, findings
from engine.report.page import PAGE, result_picture, write_report
from engine.report.pictures import contact_sheet, data_uri, edit_label
from engine.report.provenance import provenance
from engine.report.rows import Guess, choose_examples, choose_rows, make_rows
from engine.report.shown import PictureFile
from engine.run.directory import RunDirectory
from engine.runfile.data import DataConfig, FolderSource
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.runfile.run import RunFile
from engine.runfile.verifier import VerifierConfig
from engine.sample import Sample

VOID = {"meta", "img", "br", "link", "input", "hr"}
STYLE = ROOT / "engine" / "report" / "templates" / "style.css"


class Node:
    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    def find(self, tag: str) -> "Iterator[Node]":
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag:
                    yield child
                yield from child.find(tag)

    def all(self) -> "Iterator[Node]":
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.all()

    @property
    def text(self) -> str:
        words = " ".join(child if isinstance(child, str) else child.text for child in self.children)
        return " ".join(words.split())


class Page(HTMLParser):
    """Build a tree, and fail where a tag is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Node("root", {})
        self.open = [self.root]
        self.feed(html)
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def section(self, name: str) -> Node:
        return next(node for node in self.root.find("section") if node.attributes.get("id") == name)


def read_page(rundir: RunDirectory, run: RunFile) -> Page:
    write_report(rundir, run)
    return Page(rundir.storage.read(PAGE).decode())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, RunFile]:
    return finished_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def page(finished: tuple[RunDirectory, RunFile]) -> Page:
    return read_page(*finished)


def test_the_page_asks_for_nothing_outside_itself(page: Page) -> None:
    for node in page.root.all():
        assert node.tag not in {"link", "iframe", "object", "base"}
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = node.attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), f"{node.tag} {name}={value}"
        assert not any(name.startswith("on") for name in node.attributes)
    assert "url(" not in STYLE.read_text()
    assert "@import" not in STYLE.read_text()
    (script,) = page.root.find("script")
    digest = base64.b64encode(hashlib.sha256("".join(map(str, script.children)).encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    said = [node.attributes.get("content") for node in page.root.find("meta")]
    assert f"{policy}; base-uri 'none'; form-action 'none'" in said


def test_text_from_users_is_shown_as_it_is(page: Page) -> None:
    assert EVIL in page.section("pictures").text
    assert [script.text.startswith('"use strict"') for script in page.root.find("script")] == [True]


def test_hostile_names_of_classes_and_values_are_escaped_too(finished: tuple[RunDirectory, RunFile]) -> None:
    rundir, run = finished
    text = rundir.storage.read("weakness.json"), rundir.storage.read("evaluation.json")
    try:
        for name, content in zip(("weakness.json", "evaluation.json"), text, strict=True):
            rundir.storage.write(
                name, content.replace(b'"boot"', b'"<img src=x onerror=y>"').replace(b'"snow"', b'"<i>"')
            )
        page = read_page(rundir, run)
        assert "<img src=x onerror=y>" in page.section("weak").text
        assert not [image for image in page.root.find("img") if image.attributes.get("src") == "x"]
        assert all(italic.attributes.get("class") for italic in page.root.find("i"))
    finally:
        for name, content in zip(("weakness.json", "evaluation.json"), text, strict=True):
            rundir.storage.write(name, content)


def test_the_verdict_its_reasons_and_the_next_step_open_the_page(page: Page) -> None:
    header = next(page.root.find("header"))
    assert next(header.find("h1")).text == "Ship the reinforced classifier"
    assert "A loss of 1.0 points, allowed are 0.5." in header.text
    assert "from_pretrained" in next(header.find("ol")).text


def test_each_figure_shows_every_arm_with_its_interval(page: Page) -> None:
    figures = list(page.section("figures").find("article"))
    assert [next(figure.find("h3")).text for figure in figures] == [
        "Conflict accuracy",
        "Worst-group accuracy",
        "Accuracy as before",
    ]
    conflict = figures[0].text
    assert "+55.0 points, +40.0 to +70.0" in conflict
    for arm in ("base classifier 20.0 %", "real only 30.0 %", "reinforced 75.0 %"):
        assert arm in conflict
    assert len([svg for svg in figures[0].find("svg") if "track" in (svg.attributes.get("class") or "")]) == 3


def test_phrases_transfer_and_calibration_are_shown_with_their_numbers(page: Page) -> None:
    weak = page.section("weak")
    titles = [title.text for title in weak.find("h3")]
    assert titles[-3:] == [
        "Which words did it",
        f"The same cells on real_only {EVIL}",
        "Whether its confidence can be trusted",
    ]
    tables = {next(table.find("caption")).text[:5]: table for table in weak.find("table")}
    assert "grass → snow 6 of 6 100" in tables["Edits"].text
    assert "flip this one as well" in weak.text
    assert "accepted edits 6" in tables["Calib"].text
    # Six sources make nothing significant; both arms are wrong on every edit.
    assert "No cell is significant" in weak.text
    assert "Of the 6 edits that flip the classifier under test, 100.0 %" in weak.text


def test_failure_points_are_drawn_where_edits_have_several_severities(tmp_path: Path) -> None:
    rundir, run = finished_run(tmp_path)
    rows = predictions(rundir, "patient").to_pylist()
    mild = [
        row | {"key": f"{row['key']}m", "edit_severity": 0.5, "prediction": row["label"]}
        for row in rows
        if row["role"] == "counterfactual"
    ]
    answers = ClassifierPredictions(
        classifier="patient", digest="d-patient", predictions=pa.Table.from_pylist([*rows, *mild])
    )
    rundir.write_json("weakness.json", findings(answers, [], run.probe)[1])
    weak = read_page(rundir, run).section("weak")
    (chart,) = [svg for svg in weak.find("svg") if svg.attributes.get("class") == "chart"]
    assert "not flipped yet" in chart.text
    (table,) = [table for table in weak.find("table") if "median is the severity" in table.text]
    first = next(next(table.find("tbody")).find("tr"))
    assert first.text == "background: any 6 1 1 to 1 0 % 0.0 +100.0"


def test_a_weakness_table_of_another_version_says_what_to_run(tmp_path: Path) -> None:
    rundir, run = finished_run(tmp_path)
    rundir.write_json("weakness.json", {"overall": None, "cells": []})
    with pytest.raises(RunDirectoryError, match=r"no by_kind, calibration, .* run `counterforge probe` again"):
        write_report(rundir, run)


def test_answers_are_told_apart_without_colour(page: Page) -> None:
    first = next(page.section("pictures").find("article")).text
    assert "before ✗ wrong: coat 88 %" in first or "before ✗ wrong: boot 88 %" in first
    assert "after ✓ right:" in first


def test_every_picture_has_words_and_a_dialog_with_its_provenance(page: Page) -> None:
    images = list(page.root.find("img"))
    assert images
    assert all(image.attributes.get("alt") for image in images)
    dialogs = {str(node.attributes["id"]): node for node in page.root.find("dialog")}
    links = [node for node in page.root.find("a") if node.attributes.get("class") == "opens"]
    assert [str(link.attributes["href"]) for link in links] == [f"#{name}" for name in dialogs]
    assert all(link.attributes.get("aria-haspopup") == "dialog" for link in links)
    edited = next(node for name, node in dialogs.items() if "-row-" in name and name.endswith("_cf00"))
    facts = dict(zip(*([part.text for part in edited.find(tag)] for tag in ("dt", "dd")), strict=True))
    assert re.fullmatch(r"shards/00000\d\.tar", facts["shard file"])
    assert facts["tar member"] == f"{facts['key']}.jpg"
    assert facts["key"] == f"{facts['source key']}_cf00"
    shown = {name: facts[name] for name in ("edit", "instruction", "split", "severity", "verdict", "editor seed")}
    assert shown == {
        "edit": "background: grass → snow",
        "instruction": EVIL,
        "split": "train",
        "severity": "1",
        "verdict": "accepted",
        "editor seed": "5",
    }
    assert facts["score directional"] == "0.40"


def test_scores_stand_beside_the_thresholds_they_were_asked_for() -> None:
    _, placebo, good, bad, _ = tiny_group("a", 0)
    assert isinstance(placebo, Sample)
    assert isinstance(good, Sample)
    assert isinstance(bad, Sample)
    verifier = VerifierConfig(model=ModelConfig(name="zoo/verifier"), min_image=0.85, min_directional=0.3)
    run = RunFile(
        name="a",
        data=DataConfig(train=FolderSource(path="images")),
        stages={"verifier": verifier},
        probe=ProbeConfig(model=ModelConfig(name="zoo/patient")),
    )
    facts = dict(provenance(good, run, PictureFile(file="shards/000003.tar", member="a_cf00.jpg")))
    assert facts["score image"] == "0.80, at least 0.85 asked"
    assert facts["score directional"] == "0.40, at least 0.3 asked"
    assert (facts["shard file"], facts["tar member"]) == ("shards/000003.tar", "a_cf00.jpg")
    # Nothing about direction is asked of an edit that changes nothing.
    assert dict(provenance(placebo, run))["score directional"] == "undefined"
    assert dict(provenance(bad, run))["verdict"] == "rejected: min image, blank"
    assert good.verdict is not None
    said = replace(good, verdict=replace(good.verdict, notes={"eyes": "a red bag on sand"}))
    assert dict(provenance(said, run))["eyes says"] == "a red bag on sand"
    made = {"editor": {"model": {"name": "zoo/editor", "revision": "v1", "digest": "abc"}, "seed": 5, "mask": None}}
    facts = dict(provenance(replace(good, provenance=made), run))
    assert facts["editor model"] == "zoo/editor, revision v1, digest abc"
    assert facts["editor seed"] == "5"
    assert "editor mask" not in facts


def test_where_evidence_moved_lies_over_the_edit_with_its_sum(page: Page) -> None:
    pictures = page.section("pictures")
    overlays = [image for image in pictures.find("img") if "evidence" in str(image.attributes.get("class"))]
    assert {str(image.attributes["class"]) for image in overlays} == {"evidence patient", "evidence reinforced"}
    assert "88\u202f% → 12\u202f%; cells sum to −64 points" in str(overlays[0].attributes["alt"])
    assert [node.attributes.get("value") for node in pictures.find("input")] == ["none", "patient", "reinforced"]
    assert "takes probability from the true class" in pictures.text
    # The one that is compared with is on the page as well.
    ids = {node.attributes.get("id") for node in pictures.all()}
    links = [node for node in pictures.find("a") if "data-control" in node.attributes]
    assert len(links) == len(overlays) / 2 == 6
    assert all(link.attributes["data-control"] in ids for link in links)


def test_tables_have_headers_and_ids_are_unique(page: Page) -> None:
    for table in page.root.find("table"):
        assert all(th.attributes.get("scope") in {"row", "col"} for th in table.find("th"))
        assert list(table.find("th")) or any(word in table.text for word in ("No", "Nothing", "Everything"))
    ids = [node.attributes["id"] for node in page.root.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    assert {link.attributes["href"] for link in page.root.find("a")} <= {f"#{name}" for name in ids}


def test_each_kind_of_edit_is_drawn_before_and_after(page: Page) -> None:
    (table,) = (t for t in page.section("figures").find("table") if t.attributes.get("class") == "kinds")
    rows = [[cell.text for cell in row.children if isinstance(cell, Node)] for row in table.find("tr")]
    # The picture's text is its title.
    assert rows[3] == [
        "colour", "40", "+2.0", "colour: base classifier +2.0, real only +3.0, reinforced +14.0", "+14.0",
        "+12.0 +7.0 to +17.0",
    ]  # fmt: skip
    assert "Warning: curing one habit made another: the drop by edits of colour" in next(page.root.find("header")).text


def test_the_page_says_on_what_weights_were_chosen_and_the_verdict_rests(page: Page) -> None:
    words = "was chosen on the images of 19 validation split keys; the verdict rests on those of 21 others."
    assert words in page.section("training").text


def test_groups_are_shown_before_and_after(page: Page) -> None:
    maps = [t for t in page.section("groups").find("table") if "heat" in (t.attributes.get("class") or "")]
    assert [next(table.find("caption")).text for table in maps] == ["base classifier", "reinforced", "real only"]
    before, after = ([cell.text for cell in table.find("td")] for table in maps[:2])
    assert before == ["60", "◆ 100", "20", "60", "20", "◆ 100"]
    assert after == ["88", "◆ 100", "75", "88", "75", "◆ 100"]


def test_a_rejected_picture_is_shown_with_scores_and_reasons(page: Page) -> None:
    text = page.section("verifier").text
    assert "min image, blank" in text
    assert "directional 0.40" in text


def test_the_run_file_is_on_the_page(page: Page) -> None:
    (text,) = page.section("run").find("pre")
    assert "sources_per_shard: 3" in text.text


def test_what_did_not_happen_yet_is_said(tmp_path: Path) -> None:
    page = read_page(*generated_run(tmp_path, num_shards=1))
    assert next(page.root.find("h1")).text == "No verdict yet"
    for section, words in (
        ("figures", "No evaluation yet"),
        ("weak", "Not probed yet"),
        ("groups", "No evaluation yet"),
        ("training", "Not reinforced yet"),
        ("pictures", "has not been asked"),
    ):
        assert words in page.section(section).text


def test_a_run_before_its_first_shard_has_a_page(tmp_path: Path) -> None:
    page = read_page(*generated_run(tmp_path, num_shards=0))
    assert "No edits were made yet" in page.section("verifier").text
    assert "No pictures yet" in page.section("pictures").text


def test_a_set_without_attributes_is_explained(tmp_path: Path) -> None:
    rundir, run = finished_run(tmp_path)
    rundir.write_json("evaluation.json", evaluation(attributes=()))  # type: ignore[arg-type]  # JSON
    page = read_page(rundir, run)
    assert "have no attributes" in page.section("groups").text
    assert "Not measured" in page.section("figures").text


@pytest.mark.parametrize(("keep", "words"), [("none", "keep_rejected is none"), ("metadata", "picture not kept")])
def test_rejected_pictures_that_were_not_kept_are_explained(tmp_path: Path, keep: str, words: str) -> None:
    page = read_page(*generated_run(tmp_path, keep_rejected=keep))
    assert words in page.section("verifier").text


def test_text_has_contrast_in_both_modes() -> None:
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in style_roots())
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent", "right", "wrong") for ground in ("page", "panel")]
    pairs += [("ship-ink", "ship"), ("stop-ink", "stop"), ("open-ink", "open"), ("on-high", "h5"), ("on-top", "h6")]
    pairs += [("on-low", f"h{level}") for level in range(5)] + [("on-good", "g1"), ("on-good", "g2")]
    for colours in (light, dark):
        low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs}
        assert all(ratio >= 4.5 for ratio in low.values()), {pair: r for pair, r in low.items() if r < 4.5}
        assert all(contrast(colours[arm], colours["panel"]) >= 3 for arm in ("patient", "real-only", "reinforced"))


def test_rows_with_cured_flips_come_first_and_classes_take_turns() -> None:
    groups = [samples(name, label) for label in (0, 1) for name in (f"a{label}", f"b{label}", f"c{label}")]
    every = [sample for group in groups for sample in group]
    right = {sample.key: guess(sample.label, right=True) for sample in every}
    patient = right | {key: guess(0, right=False) for key in ("b0_cf00", "c1_cf00", "a1_cf00")}
    reinforced = right | {"a1_cf00": guess(0, right=False)}
    rows = choose_rows(make_rows(every, {"patient": patient, "reinforced": reinforced}), 4)
    assert {row.source.sample.key for row in rows[:2]} == {"b0", "c1"}
    assert [len(row.repairs()) for row in rows[:2]] == [1, 1]
    assert rows[3].source.sample.key == "a1"


def test_an_edit_is_no_flip_where_the_placebo_is_wrong_already() -> None:
    group = samples("a", 0)
    wrong = {key: guess(0, right=False) for key in ("a_placebo", "a_cf00")}
    (row,) = make_rows(group, {"patient": {"a": guess(0, right=True), **wrong}})
    assert row.flips() == []


def test_examples_take_the_reasons_in_turn() -> None:
    group = samples("a", 0)
    assert [sample.key for sample in choose_examples(group, is_accepted=False, count=3)] == ["a_cf01"]
    assert all(
        sample.verdict and sample.verdict.accepted for sample in choose_examples(group, is_accepted=True, count=3)
    )


def test_large_pictures_are_made_smaller_and_small_ones_kept() -> None:
    small, large = encoded((64, 48), "PNG"), encoded((900, 300), "JPEG")
    assert data_uri(small).startswith("data:image/png;base64,")
    assert len(data_uri(large)) < 20_000
    with pytest.raises(OSError, match="cannot identify"):
        data_uri(b"not an image")


def test_a_source_with_a_profile_is_shown_by_its_numbers_as_its_edits_are() -> None:
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), (9, 120, 200)).save(buffer, kind, icc_profile=rgb_profile(ADOBE_RGB, 2.2))
        shown = Image.open(io.BytesIO(base64.b64decode(data_uri(buffer.getvalue()).partition(",")[2])))
        assert "icc_profile" not in shown.info
        assert np.abs(np.asarray(shown, int)[5, 5] - (9, 120, 200)).max() <= 3


def test_the_result_picture_shows_the_rows_of_the_report(finished: tuple[RunDirectory, RunFile]) -> None:
    rundir, run = finished
    with Image.open(io.BytesIO(result_picture(rundir, run, num_rows=2))) as picture:
        assert picture.format == "PNG"
        two = picture.size
    with Image.open(io.BytesIO(result_picture(rundir, run, num_rows=4))) as picture:
        assert picture.width == two[0]
        assert picture.height > two[1]


def test_a_contact_sheet_of_nothing_is_still_a_picture() -> None:
    with Image.open(io.BytesIO(contact_sheet([]))) as picture:
        assert picture.format == "PNG"


def test_an_edit_is_named_by_what_it_changed() -> None:
    source, placebo, good, *_ = samples("a", 0)
    assert [edit_label(sample) for sample in (source, placebo, good)] == [
        "source",
        "placebo",
        "background: grass → snow",
    ]


def samples(key: str, label: int) -> list[Sample]:
    return [sample for sample in tiny_group(key, label) if isinstance(sample, Sample)]


def guess(label: int, *, right: bool) -> Guess:
    return Guess(class_name=CLASSES[label], confidence=0.5, right=right)


def encoded(size: tuple[int, int], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 120, 200)).save(buffer, kind)
    return buffer.getvalue()


def style_roots() -> tuple[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    return blocks[0], blocks[1]


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of WCAG 2.2."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
