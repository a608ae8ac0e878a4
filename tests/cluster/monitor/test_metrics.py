"""The metrics that Prometheus gets of a run, the numbers of `status`, and the dashboard are of one piece."""

import json
import re
import socket
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from tint_runs import make_in_process, tint_run, write_images
from waiting import free_port

from cluster.cli.main import main
from cluster.monitor import metrics
from cluster.monitor.meters import MAX_REASONS, OTHER, RunMeter, StageMeter, fates
from cluster.monitor.metrics import (
    BEGUN_AGAIN,
    BUSY_SECONDS,
    IMAGES,
    SHARD_SECONDS,
    SHARDS,
    SHARDS_COMMITTED,
    STAGE_SECONDS,
    WRITTEN,
    Metric,
)
from cluster.monitor.progress import MarkerFollower
from cluster.phases.pipeline import open_run
from cluster.session.placement import generate_needs
from cluster.session.session import METRICS_REPORT_MS, SessionConfig, ray_session
from engine.run.attempts import Attempts
from engine.run.directory import RunDirectory
from engine.sample import Rejection, Sample
from engine.shards.marker import add_counts

DASHBOARD = ROOT / "cluster" / "deploy" / "grafana.json"
WAIT_S = 60.0
METRICS = [each for each in vars(metrics).values() if isinstance(each, Metric)]
# Of the red and green edits some are brighter, some darker.
BRIGHTNESS = 125

Labels = Mapping[str, str]
# What a scrape holds: by name, each series with its value.
Scrape = Mapping[str, list[tuple[Labels, float]]]


Recorded = list[tuple[Metric, float, dict[str, str]]]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Keep what is recorded, and record it all the same."""
    kept: Recorded = []
    record = Metric.record

    def keep(metric: Metric, value: float, **tags: str) -> None:
        kept.append((metric, value, tags))
        record(metric, value, **tags)

    monkeypatch.setattr(Metric, "record", keep)
    return kept


def sums(recorded: Recorded, metric: Metric, *tags: str) -> dict[tuple[str, ...], float]:
    """Return the sum by tags of what was recorded of a counter."""
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for each, value, have in recorded:
        if each is metric and value:
            found[tuple(have[tag] for tag in tags)] += value
    return dict(found)


def scrape(port: int) -> Scrape:
    """Return the series of Counterforge that Ray's agent serves."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = defaultdict(list)
    for line in lines:
        if match := re.fullmatch(r"(ray_counterforge_\w+)\{(.*)\} (\S+)", line):
            found[match[1]].append((dict(re.findall(r'(\w+)="([^"]*)"', match[2])), float(match[3])))
    return found


def total(found: Scrape, metric: Metric, **labels: str) -> float:
    series = found.get(metric.exported, [])
    return sum(value for have, value in series if labels.items() <= have.items())


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return content


def expressions() -> list[str]:
    """Return what the panels and the variables of the dashboard ask Prometheus for."""
    variables = [variable["definition"] for variable in dashboard()["templating"]["list"] if "definition" in variable]
    return variables + [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scrape, Path]:
    """Generate a run on this machine, a worker of which is killed once, and scrape it before its session ends."""
    pytest.importorskip("opentelemetry.exporter.prometheus", reason="needs counterforge[metrics]")
    from cluster.phases.generate import generate_run

    folder, port = tmp_path_factory.mktemp("scraped"), free_port()
    options = {"tint": {"die_once": str(folder / "died"), "sleep_s": 0.3}, "judge": {"min_brightness": BRIGHTNESS}}
    stages = {
        name: {
            "kind": "plugin",
            "target": f"tiny_stages:{name.title()}",
            "options": options[name],
            "placement": {"replicas": [1, 1], "num_cpus": 0.5},
        }
        for name in options
    }
    run = tint_run(write_images(folder / "images", bad=2), stages=stages)
    rundir, plan = open_run(run, str(folder / "run"))
    with ray_session([generate_needs(run)], SessionConfig(metrics_port=port)):
        generate_run(run, rundir, plan)
        end = time.monotonic() + WAIT_S
        while total(scrape(port), SHARDS_COMMITTED) < plan.num_shards and time.monotonic() < end:
            time.sleep(0.5)
        # Each process reports for itself.
        time.sleep(METRICS_REPORT_MS / 1000)
        found = scrape(port)
    return found, folder / "run"


@pytest.mark.slow
def test_the_scrape_has_the_counts_of_status(scraped: tuple[Scrape, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found, out = scraped
    assert main(["status", str(out), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    counts = state["counts"]
    assert total(found, SHARDS_COMMITTED) == total(found, SHARDS, state="done") == state["done"]
    assert total(found, SHARDS, state="pending") == state["num_shards"] - state["done"]
    assert total(found, IMAGES, role="source", verdict="accepted") == counts["sources"]
    assert total(found, IMAGES, role="placebo", verdict="accepted") == counts["placebos"]
    assert total(found, IMAGES, role="placebo", verdict="rejected") == counts["rejected_placebos"]
    assert total(found, IMAGES, role="counterfactual", verdict="accepted") == counts["accepted"]
    assert total(found, IMAGES, role="counterfactual") == counts["candidates"]
    for verdict, roles in (("rejected", {"role": "counterfactual"}), ("quarantined", {})):
        reasons = {
            labels["reason"]
            for labels, _ in found[IMAGES.exported]
            if {"verdict": verdict, **roles}.items() <= labels.items()
        }
        assert {reason: total(found, IMAGES, verdict=verdict, reason=reason, **roles) for reason in reasons} == counts[
            verdict
        ]
    assert counts["rejected"]["dark"] > 0
    assert counts["quarantined"] == {"too_blue": 14, "unreadable_image": 2}
    assert total(found, IMAGES, verdict="quarantined", stage="source") == 2
    for stage, mean in state["seconds"].items():
        assert total(found, STAGE_SECONDS, stage=stage) == pytest.approx(mean * state["done"], abs=1e-6)


@pytest.mark.slow
def test_bytes_and_time_at_work_are_those_of_the_markers(scraped: tuple[Scrape, Path]) -> None:
    found, out = scraped
    markers = RunDirectory.open(str(out)).markers().values()
    files = [(path.partition("/")[0], file.bytes) for marker in markers for path, file in marker.files.items()]
    for folder in ("shards", "rejected", "quarantine"):
        assert total(found, WRITTEN, folder=folder) == sum(size for name, size in files if name == folder)
    # A worker that is killed takes its last seconds with it, and the shard's marker does not have them either.
    for stage in ("tint", "judge"):
        measured = total(found, STAGE_SECONDS, stage=stage)
        assert total(found, BUSY_SECONDS, stage=stage) == pytest.approx(measured, rel=0.3, abs=0.1)
    assert total(found, BEGUN_AGAIN, group="tint") == 1
    assert total(found, BEGUN_AGAIN, group="judge") == 0


@pytest.mark.slow
def test_every_metric_that_is_defined_is_exported_with_its_labels(scraped: tuple[Scrape, Path]) -> None:
    found, _ = scraped
    for metric in METRICS:
        series = found.get(f"{metric.exported}_count" if metric.kind == "histogram" else metric.exported)
        assert series, metric.exported
        assert all(set(metric.tags) <= labels.keys() for labels, _ in series), metric.exported
        assert all(labels["run"] == "tint" for labels, _ in series)
    assert total(found, SHARD_SECONDS) == 0
    assert {name.removesuffix("_count") for name in found if not name.endswith(("_sum", "_bucket"))} == {
        metric.exported for metric in METRICS
    }


@pytest.mark.slow
def test_the_dashboard_asks_for_what_a_run_exports(scraped: tuple[Scrape, Path]) -> None:
    assert {name for expression in expressions() for name in re.findall(r"\bray_\w+", expression)} <= scraped[0].keys()


def test_the_dashboard_shows_every_metric_by_labels_that_it_has() -> None:
    shown = " ".join(expressions())
    for metric in METRICS:
        name = f"{metric.exported}_bucket" if metric.kind == "histogram" else metric.exported
        assert re.search(rf"\b{name}\b", shown), name
    known = {tag for metric in METRICS for tag in metric.tags} | {"le", "WorkerId", "NodeAddress"}
    by = re.findall(r"\b(?:by|on) \((.*?)\)", shown)
    assert {label for labels in by for label in labels.split(", ")} <= known
    for name, labels in re.findall(r"\b(ray_\w+?)(?:_bucket)?\{(.*?)\}", shown):
        tags = next(metric.tags for metric in METRICS if metric.exported == name)
        assert {label.partition("=")[0].rstrip("!~") for label in labels.split(",")} <= set(tags)


def test_the_dashboard_can_be_imported_anywhere() -> None:
    content = dashboard()
    assert [variable["name"] for variable in content["templating"]["list"]] == ["datasource", "run", "window"]
    places: set[tuple[int, int]] = set()
    for number, panel in enumerate(content["panels"], 1):
        assert panel["id"] == number
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {each["datasource"]["uid"] for each in [panel, *panel["targets"]]} == {"${datasource}"}
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & places, f"{panel['title']} lies on another panel"
        assert place["x"] + place["w"] <= 24
        places |= cells


def test_each_new_marker_is_counted_once_and_older_ones_are_not(tmp_path: Path, recorded: Recorded) -> None:
    run = tint_run(write_images(tmp_path / "images", bad=2))
    rundir = make_in_process(run, tmp_path / "run", [0, 1])
    follower = MarkerFollower(rundir, 4, 16, rundir.done(), RunMeter(rundir))
    follower.poll()
    assert not sums(recorded, SHARDS_COMMITTED)
    make_in_process(run, tmp_path / "run", [2, 3, 1])
    markers = rundir.markers()
    follower.add(markers[2])
    follower.add(markers[3])
    follower.poll()
    follower.poll()
    assert sums(recorded, SHARDS_COMMITTED) == {(): 2}
    assert sums(recorded, WRITTEN) == {(): sum(file.bytes for i in (2, 3) for file in markers[i].files.values())}
    counts = add_counts({index: markers[index] for index in (2, 3)})
    assert sums(recorded, IMAGES, "role", "verdict")["counterfactual", "accepted"] == counts.accepted


def test_every_image_of_a_shard_is_counted_by_where_it_went(tmp_path: Path) -> None:
    rundir = make_in_process(tint_run(write_images(tmp_path / "images", bad=2)), tmp_path / "run", range(4))
    for index, marker in rundir.markers().items():
        found = fates(marker.counts, rundir.read_quarantine(index))
        edits = {fate: count for fate, count in found.items() if fate[0] == "counterfactual"}
        assert sum(edits.values()) == marker.counts.candidates
        reasons = {reason: found["counterfactual", "quarantined", "judge", reason] for reason in ("too_blue",)}
        assert reasons["too_blue"] == marker.counts.quarantined.get("too_blue", 0) > 0


def test_time_at_work_is_measured_also_where_a_stage_raises_and_ray_is_not_there(
    tmp_path: Path, recorded: Recorded
) -> None:
    import ray

    assert not ray.is_initialized()
    rundir = make_in_process(tint_run(write_images(tmp_path / "images"), tint={"sleep_s": 0.1}), tmp_path / "run", [0])
    busy, marker = sums(recorded, BUSY_SECONDS, "group", "stage"), rundir.marker(0)
    assert busy.keys() == {("tint", "tint"), ("judge", "judge")}
    assert busy["tint", "tint"] == pytest.approx(marker.seconds["tint"], rel=0.1)

    def raises(batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        time.sleep(0.05)
        raise ValueError(str(batch))
        yield

    with pytest.raises(ValueError, match="\\[\\]"):
        list(StageMeter("tint", "tint").timed("broken", raises)([]))
    assert sums(recorded, BUSY_SECONDS, "stage")[("broken",)] > 0.04


def test_a_plugin_that_puts_numbers_into_its_reasons_makes_no_endless_labels(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images"))
    meter = RunMeter(open_run(run, str(tmp_path / "run"))[0])
    seen = [meter.bounded("mine", f"too small by {number}") for number in range(2 * MAX_REASONS)]
    assert len(set(seen)) == MAX_REASONS + 1
    assert seen[-1] == ("mine", OTHER)
    assert meter.bounded("mine", "too small by 3") == ("mine", "too small by 3")


def test_a_metrics_port_that_cannot_be_served_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus", reason="needs counterforge[metrics]")
    open_run(tint_run(write_images(tmp_path / "images")), str(tmp_path / "run"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for more, words in (
            ([str(port)], f"--metrics-port {port} cannot be used"),
            (["70000"], "--metrics-port 70000: expected a port from 1 to 65535"),
            (["9464", "--address", "auto"], "--metrics-port 9464 is for this machine alone"),
        ):
            assert main(["probe", str(tmp_path / "run"), "--metrics-port", *more]) == 2
            assert words in capsys.readouterr().err


def test_status_names_a_shard_that_was_begun_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rundir, _ = open_run(tint_run(write_images(tmp_path / "images")), str(tmp_path / "run"))
    attempts = Attempts(storage=rundir.storage, where="tint")
    attempts.begin(0)
    attempts.begin(3)
    attempts.begin(3)
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "tint: shard 3 begun 2 times" in (said := capsys.readouterr().out)
    assert "shard 0" not in said
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    assert [work["shard"] for work in json.loads(capsys.readouterr().out)["begun_again"]] == [3]
