"""Which source a path on the command line is, with the attributes that its images have."""

import json
from pathlib import Path

import pytest
from source_files import encoded, folder_of, items_of, save_dataset, write, write_tar
from tiny_runs import tiny_plan, tiny_results

from engine.errors import SourceError
from engine.runfile.data import FolderSource, HuggingFaceSource, TableSource, TarSource, WardrobeSource
from engine.sample import Sample
from engine.shards.tar import encode_shard
from engine.sources import open_source
from engine.sources.guess import parse_source


def test_sources_are_known_by_their_form(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", "cat/1.jpg", "dog/1.jpg")
    assert parse_source(images.path) == FolderSource(path=images.path)
    table = tmp_path / "birds.csv"
    table.write_text("path,label,caption,habitat,\n")
    assert parse_source(str(table)) == TableSource(path=str(table), attributes=("habitat",))
    lines = tmp_path / "birds.jsonl"
    lines.write_text('{"path": "a.jpg", "label": "b", "sex": "f"}\n')
    assert parse_source(str(lines)) == TableSource(path=str(lines), attributes=("sex",))
    tars = tmp_path / "tars"
    tars.mkdir()
    (tars / "0.tar").touch()
    assert parse_source(str(tars)) == TarSource(path=str(tars))
    assert parse_source(str(tars / "0.tar")) == TarSource(path=str(tars / "0.tar"))
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.json").touch()
    assert parse_source(str(saved)) == HuggingFaceSource(path=str(saved))
    assert parse_source("wardrobe:heldout") == WardrobeSource(split="heldout")
    assert parse_source("wardrobe:heldout:0.95:200") == WardrobeSource(split="heldout", correlation=0.95, count=200)


@pytest.mark.parametrize("text", ["wardrobe:test", "wardrobe:heldout:2", "wardrobe:heldout:much", "nowhere", __file__])
def test_a_source_that_is_none_is_explained(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_source(text)
    assert str(caught.value).startswith(f"{text}: ")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_tables_of_spreadsheets_keep_their_attributes(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.TSV", "path\tlabel\thabitat\t\n".encode(encoding))
    assert parse_source(str(path)) == TableSource(path=str(path), attributes=("habitat",))
    broken = write(tmp_path / "b.csv", b"\xffpath,label\n")
    assert parse_source(str(broken)) == TableSource(path=str(broken))


def test_tars_keep_the_fields_that_most_samples_have(tmp_path: Path) -> None:
    members = []
    for number in range(60):
        record = {"label": "cat", "group": number % 5, "camera": f"c{number % 2}", "url": f"a/{number}", "box": [1]}
        record |= {"note": "seldom"} if number < 5 else {}
        members += [(f"{number}.jpg", encoded()), (f"{number}.json", json.dumps(record).encode())]
    for name in ("a.tar", "B.TAR"):
        config = write_tar(tmp_path / name, *members)
        assert parse_source(config.path) == TarSource(path=config.path, attributes=("camera",))
    assert items_of(parse_source(config.path))[0].attributes["camera"] in {"c0", "c1"}
    write(tmp_path / "packed/a.tar.gz")
    assert parse_source(f"{tmp_path}/packed") == TarSource(path=f"{tmp_path}/packed")
    with pytest.raises(SourceError, match=r"this is \.gz: unpack it to \.tar"):
        parse_source(f"{tmp_path}/packed/a.tar.gz")


def test_shards_of_a_run_keep_its_attributes(tmp_path: Path) -> None:
    _, plan = tiny_plan(tmp_path)
    samples = [each for each in tiny_results(plan, 0) if isinstance(each, Sample)]
    write(tmp_path / "run/shards/000000.tar", b"".join(map(bytes, encode_shard(samples))))
    write(tmp_path / "run/run.yaml")
    shards = f"{tmp_path}/run/shards"
    assert parse_source(shards) == TarSource(path=shards, attributes=("background",))
    assert len(items_of(parse_source(shards))) == sum(each.role == "source" for each in samples)
    with pytest.raises(SourceError, match=f"{tmp_path}/run is a run: its images are in {shards}, name that folder"):
        parse_source(f"{tmp_path}/run")


def test_datasets_keep_their_columns_by_type(tmp_path: Path) -> None:
    import datasets

    count = 60
    kinds = datasets.ClassLabel(names=["wild", "tame"])
    config = save_dataset(
        tmp_path / "saved",
        species=(datasets.ClassLabel(names=["cat", "dog"]), [number % 2 for number in range(count)]),
        kind=["a", "b"] * (count // 2),
        camera=[1.0, None] * (count // 2),
        file=[f"{number}.jpg" for number in range(count)],
        group=[number // 2 for number in range(count)],
        bounds=[[1, 2]] * count,
    )
    found = parse_source(config.path)
    assert found == HuggingFaceSource(path=config.path, label_column="species", attributes=("kind", "camera"))
    items = list(open_source(found).items())
    assert [(item.class_name, dict(item.attributes), item.split_key) for item in items[:3]] == [
        ("cat", {"kind": "a", "camera": "1"}, "group:0"),
        ("dog", {"kind": "b", "camera": ""}, "group:0"),
        ("cat", {"kind": "a", "camera": "1"}, "group:1"),
    ]
    named = save_dataset(tmp_path / "named", label=["x"] * 2, kind=(kinds, [1, -1]))
    items = list(open_source(parse_source(named.path)).items())
    assert [dict(item.attributes) for item in items] == [{"kind": "tame"}, {"kind": ""}]


def test_a_group_that_is_an_attribute_decides_no_split(tmp_path: Path) -> None:
    config = save_dataset(tmp_path / "saved", label=["x"] * 4, group=["a", "a", "b", None])
    assert [item.split_key for item in open_source(config).items()][:3] == ["group:a", "group:a", "group:b"]
    assert open_source(config).notes == (
        f"{config.path}: rows with the same value of the column 'group' fall in one split",
    )
    kept = open_source(config.model_copy(update={"attributes": ("group",)}))
    assert len({item.split_key for item in kept.items()}) == 4
    assert kept.notes == ()


def test_splits_of_a_dataset_are_named_by_their_folder(tmp_path: Path) -> None:
    import datasets

    rows = {"image": [encoded()] * 2, "label": ["cat", "dog"]}
    parts = {name: datasets.Dataset.from_dict(rows) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(f"{tmp_path}/saved")
    with pytest.raises(SourceError) as caught:
        parse_source(f"{tmp_path}/saved")
    path = f"{tmp_path}/saved/test"
    assert f"name the folder of one of them ({path}, {tmp_path}/saved/train)" in str(caught.value)
    assert [item.class_name for item in open_source(parse_source(path)).items()] == ["cat", "dog"]
