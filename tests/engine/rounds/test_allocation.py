"""Rounds: what the run file may say, which shards each makes, where a later one spends, and a whole run of two."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError
from rounds_runs import rounds_run
from tiny_runs import tiny_plan

from cluster.cli.plan_text import plan_lines
from cluster.phases import classifiers
from cluster.phases.pipeline import ALL_PHASES, all_phases, open_run, run_phases
from cluster.phases.rounds import allocate_round, check_rounds_done, generate_round
from engine.errors import RunDirectoryError, RunError, SourceError
from engine.plan.plan import make_plan
from engine.probe.pairs import Pairs, read_pairs
from engine.rounds.allocate import Evidence, allocate
from engine.rounds.allocation import allocation_path, perturber_of, read_allocation, read_allocations, shards_by_round
from engine.run.directory import RunDirectory, marker_path
from engine.runfile.perturber import AllocatedPerturberConfig
from engine.runfile.run import RoundsConfig, RunFile
from engine.shards.marker import Counts, Marker

CLASSES = ("boot", "coat")
# How much of its confidence an edit takes from the classifier.
Harm = Mapping[tuple[str, str], float]


def small_run(**changes: object) -> RunFile:
    run = rounds_run({"count": 2, "floor": 0.1, "cap": 0.5}).model_dump()
    run["stages"]["perturber"] |= {"edits": {"background": 2, "colour": 1}} | changes
    return RunFile.model_validate(run)


def rows(
    harm: Harm, *, each: int = 12, rejected: Iterable[str] = (), severities: Iterable[float] = (1.0,)
) -> list[dict[str, object]]:
    """Edits of validation sources of both classes: each value `each` times, with what the classifier said."""
    found: list[dict[str, object]] = []
    for label, name in enumerate(CLASSES):
        for number, ((kind, value), lost) in enumerate(harm.items()):
            for index in range(each):
                key = f"{name}{number}-{index}"
                common = {
                    "source_key": key, "split_key": key, "split": "validation", "label": label, "class_name": name,
                    "accepted": value not in rejected, "prediction": label, "edit_before": "x",
                    "edit_strategy": "", "edit_steered": False,
                }  # fmt: skip
                unedited = common | {"role": "source", "edit_kind": None, "edit_after": None, "edit_severity": None}
                found.append(unedited | {"key": key, "p_label": 0.95, "accepted": True})
                for place, severity in enumerate(severities):
                    edit = {"edit_kind": kind, "edit_after": value, "edit_severity": severity, "p_label": 0.95 - lost}
                    found.append(common | edit | {"key": f"{key}_cf{place:02d}", "role": "counterfactual"})
    return found


def evidence(found: list[dict[str, object]]) -> Evidence:
    table = pa.Table.from_pylist(found)
    pairs: Pairs = read_pairs(table)
    return Evidence(plan="p", classifier="c", pairs=pairs, candidates=table)


HARM = {
    ("background", "snow"): 0.9, ("background", "sand"): 0.3, ("background", "sky"): 0.05,
    ("colour", "red"): 0.02, ("colour", "blue"): 0.02,
}  # fmt: skip


def test_a_number_stands_for_that_many_rounds() -> None:
    assert rounds_run(1).rounds == RoundsConfig()
    assert rounds_run(3).rounds == RoundsConfig(count=3)
    assert rounds_run({"count": 3, "cap": 0.5}).rounds == RoundsConfig(count=3, cap=0.5)


@pytest.mark.parametrize(
    ("count", "changes", "said"),
    [
        (3, {"probe": {"callable": "a.b:c"}}, "3 rounds need probe.model: a black box is not trained"),
        (3, {"reinforce": {"arms": ["real_only"]}}, "reinforced among reinforce.arms"),
        (2, {"rounds": {"count": 2, "floor": 0.6}}, "rounds.floor of at most 0.5"),
        (2, {"stages": {"editor": {"kind": "plugin", "target": "a:B"}}, "groups": []}, "a perturber among stages"),
    ],
)
def test_rounds_that_cannot_be_allocated_are_refused(count: int, changes: dict[str, object], said: str) -> None:
    content = rounds_run(count).model_dump() | changes
    with pytest.raises(ValidationError, match=said):
        RunFile.model_validate(content)


def test_two_rounds_train_nothing_between_them_so_a_black_box_may_have_them() -> None:
    run = RunFile.model_validate(rounds_run(2).model_dump() | {"probe": {"callable": "a.b:c"}, "reinforce": {}})
    assert run.rounds.count == 2


def test_one_round_leaves_the_plan_as_it_was_and_several_make_another() -> None:
    one = make_plan(rounds_run(1)).digest
    assert make_plan(rounds_run({"count": 1, "floor": 0.3, "cap": 0.9})).digest == one
    two = make_plan(rounds_run(2)).digest
    assert two != one
    assert make_plan(rounds_run({"count": 2, "floor": 0.3})).digest != two


def test_validation_is_the_first_round_and_each_train_shard_in_one_of_the_others() -> None:
    run = rounds_run(4, num_sources=30, per_shard=4)
    plan = make_plan(run)
    rounds = shards_by_round(plan, run.rounds)
    assert plan.num_train_shards == 8
    assert rounds == [[8, 9, 10], [0, 1], [2, 3, 4], [5, 6, 7]]
    assert {item.split for index in rounds[0] for item in plan.shard(index)} == {"validation"}
    assert shards_by_round(plan, RoundsConfig()) == [list(range(11))]


def test_more_rounds_than_shards_are_refused() -> None:
    run = rounds_run(4, num_sources=8, per_shard=4)
    with pytest.raises(SourceError, match=r"rounds\.count is 4: .* train sources, and these fill 2"):
        shards_by_round(make_plan(run), run.rounds)


def test_a_round_spends_where_edits_harm() -> None:
    run = small_run()
    allocation = allocate(run, CLASSES, 2, evidence(rows(HARM)))
    share = {(cell.class_name, cell.kind, cell.value): cell.share for cell in allocation.cells}
    for name in CLASSES:
        ours = {place[1:]: value for place, value in share.items() if place[0] == name}
        assert sum(ours.values()) == pytest.approx(1, abs=1e-4)
        assert max(ours, key=ours.__getitem__) == ("background", "snow")
        assert ours["background", "snow"] > 0.3
        assert sum(value for (kind, _), value in ours.items() if kind == "colour") == pytest.approx(0.1, abs=1e-4)
    snow = next(cell for cell in allocation.cells if cell.value == "snow")
    assert snow.weakness == pytest.approx(0.8, abs=0.12)
    assert snow.num_probed == snow.num_tried == 12
    red = next(cell for cell in allocation.cells if cell.value == "red")
    assert red.limit == "floor"
    assert allocation.budget == 3
    assert dict(allocation.by_kind())["background"] == pytest.approx(0.9, abs=1e-4)


def test_what_the_verifier_turns_down_gets_less_however_weak() -> None:
    run = small_run()
    both = HARM | {("background", "sand"): 0.9}
    found = rows(both, rejected=["sand"])
    shown = [row for row in found if row["accepted"]]
    pairs = evidence(shown)
    allocation = allocate(run, CLASSES, 2, Evidence(**vars(pairs) | {"candidates": pa.Table.from_pylist(found)}))
    share = {cell.value: cell.share for cell in allocation.cells if cell.class_name == "boot"}
    assert share["snow"] > 3 * share["sand"]


def test_severities_are_cells_of_their_own() -> None:
    run = small_run(severities=(0.5, 1.0))
    found = rows({("background", "snow"): 0.5, ("colour", "red"): 0.1}, severities=(0.5, 1.0))
    for row in found:
        if row["edit_severity"] == 0.5:
            row["p_label"] = 0.94
    allocation = allocate(run, CLASSES, 2, evidence(found))
    snow = {cell.severity: cell for cell in allocation.cells if cell.value == "snow" and cell.class_name == "boot"}
    assert snow[1.0].weakness > snow[0.5].weakness + 0.2
    assert snow[1.0].share > snow[0.5].share
    assert allocation.budget == 6


def test_rare_values_share_one_cell() -> None:
    found = rows(HARM | {("background", "a castle"): 0.9}, each=4)
    allocation = allocate(small_run(), CLASSES, 2, evidence(found))
    assert {cell.value for cell in allocation.cells} == {None}
    assert all(cell.num_tried for cell in allocation.cells)
    assert dict(allocation.by_kind())["background"] > 0.75


def test_an_allocation_depends_on_the_evidence_and_the_seed_alone() -> None:
    run, found = small_run(), rows(HARM)
    first, again = (allocate(run, CLASSES, 2, evidence(order)) for order in (found, found))
    assert first.data == again.data
    other = run.model_copy(update={"seed": 9})
    assert allocate(other, CLASSES, 2, evidence(found)).data != first.data
    assert allocate(run, CLASSES, 3, evidence(found)).data != first.data


def test_an_allocation_is_read_back_with_the_same_hash(tmp_path: Path) -> None:
    run, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    allocation = allocate(small_run(), CLASSES, 2, evidence(rows(HARM)))
    rundir.storage.create(allocation_path(2), allocation.data)
    assert read_allocation(rundir, 2) == allocation
    stored = rundir.storage.read(allocation_path(2))
    assert read_allocations(rundir, RoundsConfig(count=3)) == {hashlib.sha256(stored).hexdigest(): allocation}
    rundir.storage.write(allocation_path(2), b'{"number": 2}')
    with pytest.raises(RunDirectoryError, match="no allocation that this version wrote"):
        read_allocation(rundir, 2)


def test_an_allocated_run_differs_in_its_perturber_alone() -> None:
    run = small_run()
    allocation = allocate(run, CLASSES, 2, evidence(rows(HARM)))
    allocated = allocation.apply_to(run)
    name, config = perturber_of(allocated)
    assert isinstance(config, AllocatedPerturberConfig)
    assert config.allocation == allocation.sha256
    assert config.edits == perturber_of(run)[1].edits
    assert set(config.wanted) == set(CLASSES)
    assert {key: stage for key, stage in allocated.stages.items() if key != name} == {
        key: stage for key, stage in run.stages.items() if key != name
    }


def test_generate_alone_stops_where_a_round_has_no_allocation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = rounds_run(2)
    plan = make_plan(run)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    generate_round(run, rundir, plan, 2)
    assert "round 2 waits until `counterforge run`" in caplog.text
    assert rundir.done() == []


def test_test_images_wait_for_the_last_round(tmp_path: Path) -> None:
    run = rounds_run(2)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, make_plan(run))
    with pytest.raises(RunError, match="go on with `counterforge run`"):
        check_rounds_done(run, rundir)
    check_rounds_done(rounds_run(1), rundir)


def test_an_allocation_needs_the_rounds_before_and_none_of_its_own_shards(tmp_path: Path) -> None:
    run = rounds_run(2)
    plan = make_plan(run)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    with pytest.raises(RunError, match="2 shards of the rounds before round 2 are not made"):
        allocate_round(run, rundir, plan, 2)
    for index in (0, 1, 2, 4, 5):
        rundir.storage.write(marker_path(index), b"{}")
    with pytest.raises(RunError, match=r"3 shards of round 2 were made by an allocation that is gone: restore"):
        allocate_round(run, rundir, plan, 2)
    rundir.storage.write(marker_path(3), b"{}")
    allocate_round(run, rundir, plan, 2)
    assert not rundir.exists(allocation_path(2))


def test_a_round_is_allocated_between_two_generations_and_once_made_needs_none(tmp_path: Path) -> None:
    run = rounds_run(2)
    plan = make_plan(run)
    rundir = RunDirectory.create(str(tmp_path / "run"), run, plan)
    phases = all_phases(run, rundir, plan)
    assert [phase.name for phase in phases] == ["generate", "allocate", "generate", "probe", "reinforce", "report"]
    for index in (4, 5):
        rundir.storage.write(marker_path(index), b"{}")
    assert [phase.is_there() for phase in phases[:3]] == [True, False, False]
    rundir.storage.write(allocation_path(2), b"{}")
    assert [phase.is_there() for phase in phases[:3]] == [True, True, False]
    rundir.storage.delete(allocation_path(2))
    for index in range(4):
        rundir.storage.write(marker_path(index), b"{}")
    assert [phase.is_there() for phase in phases[:3]] == [True, True, True]


def test_the_plan_says_what_each_round_makes(tmp_path: Path) -> None:
    lines, _ = plan_lines(rounds_run(4), str(tmp_path / "none"))
    assert [line for line in lines if line.startswith("round")] == [
        "round 1     12 validation sources, edited as the run file says, in 2 shards",
        "round 2     6 train sources, where the classifier is weak on validation edits, in 1 shards",
        "round 3     6 train sources, where it is weak after training on the rounds before, in 1 shards",
        "round 4     12 train sources, where it is weak after training on the rounds before, in 2 shards",
    ]
    assert not [line for line in plan_lines(rounds_run(1), str(tmp_path / "none"))[0] if line.startswith("round")]


def test_a_marker_without_an_allocation_says_nothing_of_it() -> None:
    marker = Marker(shard=0, plan="p", files={}, counts=Counts(), keys=None, seconds={}, versions={})
    assert b"allocation" not in marker.to_json()
    assert Marker.from_json(marker.to_json(), "m") == marker
    spent = replace(marker, allocation="abc")
    assert Marker.from_json(spent.to_json(), "m") == spent


@pytest.mark.slow
def test_a_run_of_three_rounds_is_allocated_twice_and_resumes_to_the_same_bytes(
    generation_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Classifiers are asked in this process, where they take less time to start than as actors.
    monkeypatch.setattr(classifiers, "in_session", lambda: False)
    small = {"num_sources": 12, "num_validation": 6, "per_shard": 3}
    run = rounds_run(3, **small)
    rundir, plan = open_run(run, str(tmp_path / "run"))
    run_phases(ALL_PHASES, run, rundir, plan)
    check_rounds(rundir)
    allocations = [rundir.storage.read(allocation_path(number)) for number in (2, 3)]
    files = {index: rundir.marker(index).files for index in rundir.done()}
    rundir.storage.delete(marker_path(3))
    other = rounds_run(3, **small, num_steps=5)
    again, plan = open_run(other, str(tmp_path / "run"))
    run_phases(("generate", "allocate"), other, again, plan)
    assert {index: again.marker(index).files for index in again.done()} == files
    assert [again.storage.read(allocation_path(number)) for number in (2, 3)] == allocations
    assert again.marker(3).allocation == hashlib.sha256(allocations[1]).hexdigest()


def check_rounds(rundir: RunDirectory) -> None:
    """Hold what a whole run of three rounds has made."""
    second, third = (hashlib.sha256(rundir.storage.read(allocation_path(number))).hexdigest() for number in (2, 3))
    by_shard = {0: second, 1: second, 2: third, 3: third, 4: None, 5: None}
    assert {index: marker.allocation for index, marker in rundir.markers().items()} == by_shard
    # The classifier under test, and the one that was trained on the second round.
    asked = [read_allocation(rundir, number).classifier for number in (2, 3)]
    assert len(set(asked)) == 2
    assert not rundir.exists("rounds/001_training.json")
    assert rundir.exists("rounds/002_training.json")
    for index, name in list(by_shard.items())[:4]:
        edits = rundir.read_rows(index).filter(pc.equal(rundir.read_rows(index)["role"], "counterfactual"))
        made_by = {row["perturber"]["allocation"] for row in edits["provenance"].to_pylist()}
        assert made_by == {name}
        candidates = Counter(edits["source_key"].to_pylist())
        assert max(candidates.values()) == 2
    assert list(rundir.read_json("reinforce.json")["arms"]) == ["patient", "reinforced"]
    summary = json.loads(rundir.storage.read("report/summary.json"))
    assert [each["round"] for each in summary["rounds"]] == [1, 2, 3]
    assert all(each["edits_accuracy_after"] is not None for each in summary["rounds"])
    assert all(cell["found_in_round"] in (1, 2, 3) for cell in rundir.read_json("weakness.json")["found_by_round"])
    arms = rundir.read_json("evaluation.json")["arms"]
    for arm in ("patient", "reinforced"):
        kinds = {row["kind"]: row for row in arms[arm]["edits_by_kind"] if row["value"] is None}
        assert set(kinds) == {"background", "colour"}
        assert all((row["change"] is None) == (arm == "patient") for row in kinds.values())
    page = rundir.storage.read("report/index.html").decode()
    assert '<section id="rounds"' in page
