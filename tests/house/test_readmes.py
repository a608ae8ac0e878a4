"""The READMEs: short enough to be read, and each link, path, command and make target in them exists."""

import re
from pathlib import Path
from typing import Any

from repository import ROOT

from cluster.cli.main import make_parser
from engine.figures.figures import BLOCK

ELSEWHERE = {".venv", ".pytest_cache", "build", "runs"}
TEXTS = sorted(path for path in ROOT.rglob("*.md") if not ELSEWHERE & set(path.relative_to(ROOT).parts))
MAX_LINES = 160
MAX_LINE = 120
# `[text](link)` and `[text]: link`.
LINK = re.compile(r"(?:\]\(|^\[[^\]]+\]: )(?!\w+:|#)([^)#\s]+)", re.MULTILINE)
ANCHOR = re.compile(r"\]\((?!\w+:)([^)#\s]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
OUR_PATH = re.compile(r"`((?:engine|actors|cluster|tests|configs)/[\w./-]*)`")
# Code is what stands in backticks, or in lines of four spaces.
COMMAND = re.compile(r"(?:^ {4}|`)counterforge ([a-z][a-z-]*)", re.MULTILINE)
TARGET = re.compile(r"(?:^ {4}|`)make ([a-z][a-z-]*)", re.MULTILINE)


def named(pattern: re.Pattern[str]) -> list[tuple[Path, Any]]:
    return [(path, name) for path in TEXTS for name in pattern.findall(path.read_text(encoding="utf-8"))]


def test_the_first_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert not [line for line in lines if len(line) > MAX_LINE]


def test_every_floor_has_a_readme() -> None:
    for folder in ("engine", "actors", "cluster", "configs", "tests"):
        assert (ROOT / folder / "README.md").exists()


def test_links_lead_somewhere() -> None:
    links = named(LINK)
    assert len(links) > 20
    assert not [f"{path}: {link}" for path, link in links if not (path.parent / link).exists()]


def test_links_into_a_page_lead_to_a_heading() -> None:
    anchors = named(ANCHOR)
    assert len(anchors) > 5
    wrong = []
    for path, (page, anchor) in anchors:
        text = (path.parent / page if page else path).read_text(encoding="utf-8")
        headings = [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in HEADING.findall(text)]
        if anchor not in headings:
            wrong.append(f"{path}: {page}#{anchor}")
    assert not wrong


def test_paths_that_are_named_exist() -> None:
    paths = named(OUR_PATH)
    assert len(paths) > 20
    assert not [f"{path}: {name}" for path, name in paths if not (ROOT / name).exists()]


def test_commands_that_are_named_exist() -> None:
    parser = make_parser()
    actions = [action.choices for action in parser._actions if action.choices is not None]
    known = set(dict(actions[0]))
    found = named(COMMAND)
    assert {name for _, name in found} >= {"run", "plan", "status"}
    assert not [f"{path}: {name}" for path, name in found if name not in known]


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = {name for line in re.findall(r"^([a-z][a-z -]*):", makefile, re.MULTILINE) for name in line.split()}
    found = named(TARGET)
    found += [(path, block["command"]) for path in TEXTS for block in BLOCK.finditer(path.read_text(encoding="utf-8"))]
    assert {name for _, name in found} >= {"demo", "test", "proofs-probe"}
    assert not [f"{path}: {name}" for path, name in found if name not in known]
