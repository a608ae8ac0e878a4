"""Tars that were joined, sorted, packed or written by a run."""

import gzip
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from source_files import encoded, items_of, listing_error, remarks_of, write, write_tar
from tiny_runs import CLASSES, picture, tiny_plan, tiny_results

from engine.runfile.data import TarSource
from engine.sample import Sample
from engine.shards.tar import encode_shard
from engine.sources import open_source, read_sample

JPG = encoded()


def sample(key: str, label: str = "cat") -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return (f"{key}.jpg", JPG), (f"{key}.cls", label.encode())


def locators(config: TarSource) -> dict[str, str]:
    """The class of each item, by the start of the bytes that are read for it."""
    source = open_source(config)
    found = {}
    for item in source.items():
        assert source.read(item) == JPG, item.locator
        found[item.key.rpartition("-")[0]] = item.class_name
    return found


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("long", ["", "x" * 110])
def test_joined_tars_are_read_to_their_end(tmp_path: Path, format_: int, long: str) -> None:
    if long and format_ == tarfile.USTAR_FORMAT:
        long = "x" * 60
    for number, name in enumerate(("a", "b", "c")):
        write_tar(tmp_path / name, *sample(f"{long}{number}", name), format_=format_)
    joined = b"".join((tmp_path / name).read_bytes() for name in "abc")
    write(tmp_path / "all.tar", joined)
    found = locators(TarSource(path=f"{tmp_path}/all.tar"))
    assert list(found.values()) == ["a", "b", "c"]
    with tarfile.open(tmp_path / "all.tar", ignore_zeros=True) as second_reader:
        assert len(second_reader.getnames()) == 6


def test_joined_tars_with_the_same_names_are_refused(tmp_path: Path) -> None:
    data = (tmp_path / "a.tar", write_tar(tmp_path / "a.tar", *sample("1")))[0].read_bytes()
    write(tmp_path / "b.tar", data + data)
    assert "b.tar: sample 1 has two images" in listing_error(TarSource(path=f"{tmp_path}/b.tar"))


def test_a_joined_tar_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", *sample("1"))
    write_tar(tmp_path / "b.tar", *sample("2"))
    write(tmp_path / "b.tar", (tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes()[:600])
    assert "cut off in member 2.jpg" in listing_error(TarSource(path=f"{tmp_path}/b.tar"))


@pytest.mark.parametrize("hole", [False, True])
def test_what_follows_a_tar_and_is_none_is_refused(tmp_path: Path, hole: bool) -> None:
    """A hole in a copy looks like the end."""
    members = [each for number in range(9) for each in sample(str(number))]
    data = Path(write_tar(tmp_path / "a.tar", *members, format_=tarfile.USTAR_FORMAT).path).read_bytes()
    second = data.index(b"1.jpg")
    if hole:
        write(tmp_path / "a.tar", data[:second] + bytes(600) + data[second + 600 :])
        said = f"bytes behind its end, from byte {second + 600} on, are no tar; copy it again"
    else:
        write(tmp_path / "a.tar", data + b"signature" * 100)
        said = f"900 bytes behind its end, from byte {len(data)} on, are no tar; copy it again, or cut them off"
    assert said in listing_error(TarSource(path=str(tmp_path)))


def test_members_that_are_sorted_by_type_are_read(tmp_path: Path) -> None:
    members = [each for number, label in enumerate("abc") for each in sample(str(number), label)]
    by_type = sorted(members, key=lambda member: (member[0].rpartition(".")[2], member[0]), reverse=True)
    assert locators(write_tar(tmp_path / "a.tar", *by_type)) == {"a-0": "a", "a-1": "b", "a-2": "c"}
    said = listing_error(write_tar(tmp_path / "b.tar", *sample("1"), ("2.jpg", JPG), ("1.cls", b"dog")))
    assert said == f"{tmp_path}/b.tar: sample 1 has two .cls; expected one a sample"


@pytest.mark.parametrize("packed", ["b.tar.gz", "b.tgz", "b.TAR.zst", "b.tar.bz2"])
def test_packed_tars_beside_plain_ones_are_refused_by_name(tmp_path: Path, packed: str) -> None:
    write_tar(tmp_path / "a.tar", *sample("1"))
    write(tmp_path / packed, gzip.compress((tmp_path / "a.tar").read_bytes()))
    said = (
        f"{tmp_path}: 1 compressed tars lie beside plain ones and cannot be read: '{packed}'; unpack them to .tar, or"
    )
    assert listing_error(TarSource(path=str(tmp_path))).startswith(said)
    write_tar(tmp_path / "b.tar", *sample("1"))
    (tmp_path / "notes.gz").touch()
    assert len(items_of(TarSource(path=str(tmp_path)))) == 2


def test_only_packed_tars_or_tars_in_folders_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.tar.gz")
    write_tar(tmp_path / "train/deep/a.tar", *sample("1"))
    said = listing_error(TarSource(path=str(tmp_path)))
    assert said.startswith(
        f"no .tar in {tmp_path}; expected WebDataset tars (compressed ones must be unpacked to .tar)"
    )
    assert "it has 'a.tar.gz'; tars lie in its folders 'train/deep': name one of them" in said


def test_tars_in_capitals_are_read_hidden_ones_not_and_folders_are_told(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", *sample("1"))
    write_tar(tmp_path / "B.TAR", *sample("2"))
    write_tar(tmp_path / "val/c.tar", *sample("3"))
    write(tmp_path / "._a.tar", b"Mac OS X")
    config = TarSource(path=str(tmp_path))
    assert locators(config) == {"a-1": "cat", "b-2": "cat"}
    assert remarks_of(config) == [f"the tars in folders of {tmp_path} were left out: 'val'"]


def run_shards(tmp_path: Path) -> tuple[TarSource, list[Sample]]:
    """The shards of a small run as `data` of another one."""
    _, plan = tiny_plan(tmp_path / "images")
    everything = []
    for index in range(plan.num_shards):
        samples = [each for each in tiny_results(plan, index) if isinstance(each, Sample)]
        write(tmp_path / f"shards/{index:06d}.tar", b"".join(map(bytes, encode_shard(samples))))
        everything += samples
    return TarSource(path=f"{tmp_path}/shards"), everything


def test_shards_of_a_run_give_their_sources_with_class_names_and_attributes(tmp_path: Path) -> None:
    config, samples = run_shards(tmp_path)
    sources = {each.key: each for each in samples if each.role == "source"}
    items = items_of(config.model_copy(update={"attributes": ("background",)}))
    assert Counter(item.class_name for item in items) == Counter(each.class_name for each in sources.values())
    assert {item.class_name for item in items} == set(CLASSES)
    assert {item.caption for item in items} == {f"a {name} on grass" for name in CLASSES}
    assert [item.attributes for item in items] == [{"background": "grass"}] * len(sources)
    read = [read_sample(open_source(config), item, "test") for item in items]
    assert {bytes(each.image) for each in read if isinstance(each, Sample)} == {picture((9, 9, 9))}
    (said,) = remarks_of(config)
    assert f"its sources are read, {len(samples) - len(sources)} placebos and edits left out" in said


def test_shards_without_sources_are_refused(tmp_path: Path) -> None:
    _, samples = run_shards(tmp_path)
    edits = [each for each in samples if each.role == "counterfactual"]
    write(tmp_path / "rejected/000000.tar", b"".join(map(bytes, encode_shard(edits))))
    assert "hold edits alone, no sources: name those of RUN/shards" in listing_error(
        TarSource(path=f"{tmp_path}/rejected")
    )


def test_shards_of_a_run_take_the_classes_that_are_given(tmp_path: Path) -> None:
    config = run_shards(tmp_path)[0].model_copy(update={"classes": ("Stiefel", "Mantel")})
    assert Counter(item.class_name for item in items_of(config)) == {"Stiefel": 3, "Mantel": 3}


def test_records_of_others_keep_their_labels(tmp_path: Path) -> None:
    record = json.dumps({"label": "cat", "class_name": "felis catus"}).encode()
    config = write_tar(tmp_path / "a.tar", ("1.jpg", JPG), ("1.json", record))
    assert [item.class_name for item in items_of(config)] == ["cat"]


def test_a_single_zero_block_between_members_hides_nothing(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", *sample("1"), format_=tarfile.USTAR_FORMAT)
    write_tar(tmp_path / "b.tar", *sample("2"), format_=tarfile.USTAR_FORMAT)
    data = (tmp_path / "a.tar").read_bytes()
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    write(tmp_path / "c/c.tar", data[:end] + bytes(512) + (tmp_path / "b.tar").read_bytes())
    assert locators(TarSource(path=f"{tmp_path}/c/c.tar")) == {"c-1": "cat", "c-2": "cat"}
    with tarfile.open(tmp_path / "c/c.tar") as tar:
        assert tar.getnames() == ["1.jpg", "1.cls"]
