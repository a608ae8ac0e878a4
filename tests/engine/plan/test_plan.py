"""The plan: a pure function of run file and listing that knows every source of every shard."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from repository import DEMO, ONE_CLIP

from engine.errors import LeakError, RunDirectoryError, SourceError
from engine.plan.listing import list_source
from engine.plan.plan import Plan, make_plan, plan_digest
from engine.runfile.data import Splits
from engine.runfile.load import load_run_file
from engine.runfile.run import RunFile
from engine.sources import SourceItem
from engine.sources.item import make_key

RUN_FILE_GOLDEN = "6e0900922a7df469558367b234bcebd4fbfece7935ddf512d2ebc62fb7917ed7"
GOLDEN = "f39ef772acbb664ec71e8bca4da266b5cc19a425be5599e3c6d2413be1ddb305"
STAGES = {
    "perturber": {"kind": "perturber", "model": {"name": "zoo/perturber"}},
    "editor": {"kind": "editor", "model": {"name": "zoo/editor"}},
}


def table_of(path: Path, classes: dict[str, int], groups: int = 0) -> dict[str, object]:
    """Write a table with so many rows of each class, of which the first image exists."""
    rows = [f"{name}/{number}.jpg,{name}" for name, count in classes.items() for number in range(count)]
    rows = [f"{row},{f'group {place % groups}' if groups else ''}" for place, row in enumerate(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["path,label,group", *rows]) + "\n")
    first = path.parent / rows[0].partition(",")[0]
    first.parent.mkdir(exist_ok=True)
    first.touch()
    return {"kind": "table", "path": str(path)}


def run_of(train: dict[str, object], *, shards: int = 8, **data: object) -> RunFile:
    return RunFile.model_validate(
        {
            "name": "demo",
            "data": {"train": train} | data,
            "shards": {"sources_per_shard": shards},
            "stages": STAGES,
            "probe": {"callable": "a:b"},
        }
    )


def changed(run: RunFile, **changes: dict[str, object] | object) -> RunFile:
    return RunFile.model_validate(run.model_dump() | changes)


def shards_of(plan: Plan) -> list[list[str]]:
    return [plan.keys(index) for index in range(plan.num_shards)]


def test_the_order_of_the_listing_changes_nothing(tmp_path: Path) -> None:
    run = run_of(table_of(tmp_path / "a.csv", {"cat": 90, "dog": 60}), num_sources=50, num_validation_sources=10)
    plan = make_plan(run)
    header, *rows = (tmp_path / "a.csv").read_text().splitlines()
    random.Random(0).shuffle(rows)
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]))
    (tmp_path / rows[0].partition(",")[0]).touch()
    again = make_plan(run)
    assert again.digest == plan.digest
    assert again.table.equals(plan.table)


def test_a_server_may_move_but_what_it_is_asked_may_not_change(tmp_path: Path) -> None:
    source = table_of(tmp_path / "a.csv", {"cat": 20})

    def digest(**server: object) -> str:
        perturber = STAGES["perturber"] | ({"server": server} if server else {})
        return make_plan(changed(run_of(source), stages=STAGES | {"perturber": perturber})).digest

    here = digest(url="http://a/v1")
    assert digest(url="http://b/v1", num_requests=3, timeout_s=1, key_variable="KEY") == here
    assert digest(url="http://a/v1", extra={"top_p": 0.9}) != here
    assert digest() != here


def test_the_digest_of_a_run_file_is_the_same_for_ever() -> None:
    # Another value would make every existing run directory "another plan": a new setting needs a default that does not
    # change what is made.
    run = load_run_file(DEMO, ["data.train.count=60", *ONE_CLIP])
    table = pa.table({"key": ["a", "b"], "label": pa.array([0, 1], pa.int32())})
    assert plan_digest(run, ("cat", "dog"), table) == RUN_FILE_GOLDEN


def test_a_setting_at_its_default_is_as_one_that_is_not_there(tmp_path: Path) -> None:
    run = run_of(table_of(tmp_path / "a.csv", {"cat": 20}))
    written_out = RunFile.model_validate(run.model_dump())
    assert make_plan(written_out).digest == make_plan(run).digest


def test_two_kinds_of_source_with_the_same_fields_have_two_digests(tmp_path: Path) -> None:
    table = pa.table({"key": ["a"], "label": pa.array([0], pa.int32())})
    sources = ({"kind": kind, "path": str(tmp_path)} for kind in ("folder", "webdataset", "huggingface"))
    assert len({plan_digest(run_of(source), ("cat",), table) for source in sources}) == 3


def test_a_plan_is_the_same_for_ever(tmp_path: Path) -> None:
    rows = [
        f'"{name}/{number}, no {number % 7}.jpg",{name},"a {name} ""{number}""",'
        f"{f'g{number}' if number % 5 == 1 else ''},lens {number % 3}"
        for name in ("cat", "Ünd", "dog")
        for number in range(300)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["path,label,caption,group,lens", *rows]))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/0, no 0.jpg").touch()
    source = {"kind": "table", "path": str(tmp_path / "a.csv"), "attributes": ["lens"]}
    plan = make_plan(run_of(source, num_sources=250, num_validation_sources=20, near_duplicates="off"))
    content = json.dumps([plan.num_shards, plan.classes, plan.table.to_pylist()])
    # Another value would give the sources of every existing run other keys, splits or shards.
    assert hashlib.sha256(content.encode()).hexdigest() == GOLDEN
    types = {field.name: str(field.type) for field in plan.table.schema}
    assert list(types) == ["shard", "split", "label", "key", "split_key", "locator", "caption", "attributes"]
    assert [*types.values()] == ["int32", "string", "int32", *["large_string"] * 5]


def test_every_source_is_in_the_plan_once_and_the_test_split_in_no_shard(tmp_path: Path) -> None:
    plan = make_plan(run_of(table_of(tmp_path / "a.csv", {"cat": 200, "dog": 100}), num_validation_sources=7))
    keys = plan.table.column("key").to_pylist()
    assert len(set(keys)) == len(keys) == 300
    planned = [key for shard in shards_of(plan) for key in shard]
    assert len(planned) == len(set(planned)) == plan.num_edited
    tested = {item.key for item, _ in plan.of_split("test")}
    assert tested
    assert not tested & set(planned)


def test_a_shard_has_one_split_and_at_most_its_size(tmp_path: Path) -> None:
    run = run_of(table_of(tmp_path / "a.csv", {"cat": 200}), num_sources=30, num_validation_sources=11)
    plan = make_plan(run)
    shards = [plan.shard(index) for index in range(plan.num_shards)]
    assert [len(shard) for shard in shards] == [8, 8, 8, 6, 8, 3]
    assert [{split for _, split in shard} for shard in shards] == [{"train"}] * 4 + [{"validation"}] * 2
    assert [[item.key for item, _ in shard] for shard in shards] == shards_of(plan)


def test_sources_are_chosen_evenly_from_the_classes(tmp_path: Path) -> None:
    source = table_of(tmp_path / "a.csv", {"cat": 1000, "cow": 12, "dog": 300})
    plan = make_plan(run_of(source, num_sources=60))
    edited = plan.counts(edited=True)["train"]
    rare = plan.counts()["train"]["cow"]
    assert edited["cow"] == rare
    assert abs(edited["cat"] - edited["dog"]) <= 1
    assert sum(edited.values()) == 60


def test_each_shard_is_a_mix_of_the_classes(tmp_path: Path) -> None:
    plan = make_plan(run_of(table_of(tmp_path / "a.csv", {"cat": 300, "dog": 100}), shards=40))
    for index in range(plan.num_shards - 1):
        assert 8 <= Counter(item.class_name for item, _ in plan.shard(index))["dog"] <= 12


def test_a_group_stays_on_one_side_of_the_split(tmp_path: Path) -> None:
    plan = make_plan(run_of(table_of(tmp_path / "a.csv", {"cat": 100, "dog": 100}, groups=20)))
    splits = {
        (item.split_key, split) for name in ("train", "validation", "test") for item, split in plan.of_split(name)
    }
    assert len(splits) == 20
    assert {split for _, split in splits} == {"train", "validation", "test"}


def test_a_saved_plan_is_the_same_plan(tmp_path: Path) -> None:
    source = table_of(tmp_path / "a.csv", {"cat": 50, "dog": 50}) | {"attributes": ["group"]}
    plan = make_plan(run_of(source, num_sources=20))
    loaded = Plan.from_bytes(plan.to_bytes(), "plan.parquet")
    assert (loaded.digest, loaded.classes, loaded.num_shards) == (plan.digest, plan.classes, plan.num_shards)
    assert loaded.table.equals(plan.table)
    assert loaded.shard(0) == plan.shard(0)
    assert loaded.counts() == plan.counts()
    assert set(plan.shard(0)[0].item.attributes) == {"group"}


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(RunDirectoryError, match=r"plan.parquet is not a plan that counterforge wrote"):
        Plan.from_bytes(b"PAR1", "plan.parquet")


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"name": "other", "offline": True, "report": {"num_rows": 1}, "reinforce": {"num_steps": 3}}, True),
        ({"probe": {"callable": "b:c"}, "groups": []}, True),
        ({"stages": STAGES | {"editor": STAGES["editor"] | {"placement": {"replicas": [1, 8], "num_gpus": 1}}}}, True),
        ({"stages": STAGES | {"editor": STAGES["editor"] | {"placement": {"num_threads": 2}}}}, False),
        ({"stages": STAGES | {"editor": STAGES["editor"] | {"batch_size": 2}}}, False),
        ({"stages": STAGES | {"editor": STAGES["editor"] | {"strength": 0.5}}}, False),
        ({"stages": {"p": STAGES["perturber"], "editor": STAGES["editor"]}}, False),
        ({"seed": 1}, False),
        ({"shards": {"sources_per_shard": 9}}, False),
    ],
)
def test_the_digest_covers_what_decides_the_bytes(tmp_path: Path, changes: dict[str, object], same: bool) -> None:
    run = run_of(table_of(tmp_path / "a.csv", {"cat": 30}), num_sources=20)
    assert (make_plan(changed(run, **changes)).digest == make_plan(run).digest) is same


def test_the_digest_covers_the_listing(tmp_path: Path) -> None:
    run = run_of(table_of(tmp_path / "a.csv", {"cat": 30, "dog": 30}), num_sources=5)
    digests = {make_plan(run).digest}
    for text in ("cat/99.jpg,cat,\n", "cat/100.jpg,cat,g\n"):
        with (tmp_path / "a.csv").open("a") as file:
            file.write(text)
        digests.add(make_plan(run).digest)
    assert len(digests) == 3


def test_too_few_training_sources_are_refused(tmp_path: Path) -> None:
    run = run_of(table_of(tmp_path / "a.csv", {"cat": 3}), splits={"train": 0, "validation": 0.5, "test": 0.5})
    with pytest.raises(SourceError) as caught:
        make_plan(run)
    assert str(caught.value) == (
        "no source is left to train on: 3 sources, data.splits.train is 0; add images or raise data.splits.train"
    )


def test_asking_for_more_sources_than_there_are_takes_all_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(run_of(table_of(tmp_path / "a.csv", {"cat": 20}), num_sources=500))
    assert plan.num_edited == plan.counts()["train"]["cat"]
    assert "500 sources of the train split were asked for, there are" in caplog.text


def test_other_classes_in_a_test_set_are_named(tmp_path: Path) -> None:
    train = table_of(tmp_path / "a.csv", {"cat": 20, "dog": 20})
    shifted = table_of(tmp_path / "shifted/a.csv", {"cat": 3, "wolf": 3})
    with pytest.raises(SourceError) as caught:
        make_plan(run_of(train, shifted=shifted))
    assert str(caught.value) == (
        "data.shifted must have the classes of data.train: 'wolf' only in data.shifted; 'dog' only in data.train"
    )


def test_a_mistake_in_a_test_set_is_found_before_the_run(tmp_path: Path) -> None:
    train = table_of(tmp_path / "a.csv", {"cat": 20})
    shifted = table_of(tmp_path / "shifted/a.csv", {"cat": 3})
    (tmp_path / "shifted/cat/0.jpg").unlink()
    with pytest.raises(SourceError, match="none of its first 3 images exists"):
        make_plan(run_of(train, shifted=shifted))


def test_training_data_is_refused_as_test_data(tmp_path: Path) -> None:
    train = table_of(tmp_path / "a.csv", {"cat": 20, "dog": 20})
    with pytest.raises(LeakError, match=r"data.test reads the same images as data.train"):
        make_plan(run_of(train, test=train | {"attributes": ["group"]}))
    garments = {"kind": "wardrobe", "count": 100}
    with pytest.raises(LeakError, match=r"data.shifted reads the same images as data.train"):
        make_plan(run_of(garments | {"correlation": 0.95}, shifted=garments))
    assert make_plan(run_of(garments, shifted=garments | {"split": "heldout"})).num_shards > 1


def test_an_image_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    train = table_of(tmp_path / "a.csv", {"cat": 5})
    with (tmp_path / "a.csv").open("a") as file:
        file.write("./cat/3.jpg,cat,\n")
    with pytest.raises(SourceError) as caught:
        make_plan(run_of(train))
    key = make_key("cat/3.jpg")
    said = f"one image is listed twice: 'cat/3.jpg' and 'cat/3.jpg' have the key {key}; list each image once"
    assert str(caught.value) == said


def test_a_plan_says_what_was_left_out_of_each_source_and_is_the_same_plan(tmp_path: Path) -> None:
    for name in ("train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg", "test/b/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    train, test = ({"kind": "folder", "path": str(tmp_path / name)} for name in ("train", "test"))
    whole = make_plan(run_of(train, test=test, near_duplicates="off"))
    assert whole.notes == ()
    (tmp_path / "train/3.jpg").touch()
    (tmp_path / "test/b/4.heic").touch()
    plan = make_plan(run_of(train, test=test, near_duplicates="off"))
    assert plan.notes == (
        f"data.train: 1 images in {tmp_path}/train itself are in no class folder and were left out: '3.jpg'",
        "data.test: 1 pictures have formats that are not read (1 .heic) and were left out: 'b/4.heic'",
    )
    assert (plan.digest, plan.to_bytes()) == (whole.digest, whole.to_bytes())


class NoImages:
    classes = ("cat",)

    def items(self) -> Iterator[SourceItem]:
        yield from ()

    def read(self, item: SourceItem) -> bytes:
        return b""


def test_a_source_without_images_is_refused() -> None:
    with pytest.raises(SourceError, match="the source has no images"):
        list_source(NoImages(), Splits(), 0)
