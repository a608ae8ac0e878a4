"""The shard format: exact bytes, strict JSON, and other people's readers."""

import copy
import hashlib
import io
import json
import math
import random
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from engine.errors import ShardError
from engine.sample import Edit, Sample, Verdict
from engine.shards.tar import decode_shard, dump_json, encode_shard, sample_from_json, sample_to_json


def picture(colour: tuple[int, int, int], kind: str = "JPEG") -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(output, kind)
    return output.getvalue()


def group(source_key: str = "boot-0001") -> list[Sample]:
    """A source, its placebo, an accepted and a rejected counterfactual, with everything that is hard to store."""
    source = Sample(
        key=source_key,
        source_key=source_key,
        role="source",
        image=picture((200, 10, 10)),
        label=3,
        class_name="bottes d’hiver 冬靴",
        split="train",
        caption='a "red" boot\non grass',
        attributes={"background": "grass", "größe": "42"},
    )
    same = Edit(kind="placebo", before="", after="", instruction="change nothing", caption=source.caption, severity=1.0)
    snow = Edit(
        kind="background",
        before="grass",
        after="snow ❄",
        instruction="put it on snow",
        caption="a red boot on snow",
        severity=0.25,
    )
    placebo = replace(
        source,
        key=f"{source_key}-placebo",
        role="placebo",
        edit=same,
        scores={"image": 0.1 + 0.2, "directional": math.nan},
        verdict=Verdict(accepted=True),
    )
    edited = replace(
        placebo,
        key=f"{source_key}-e0",
        role="counterfactual",
        image=picture((20, 30, 200)),
        edit=snow,
        scores={"image": 0.75, "directional": 0.5},
        provenance={"seed": 2**63 - 1, "model": {"name": "zoo/editor", "revision": None}, "steps": [1, 2.5, True]},
    )
    failed = replace(edited, key=f"{source_key}-e1", verdict=Verdict(accepted=False, reasons=("min_image", "blank")))
    return [source, placebo, edited, failed]


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "000000.tar"
    path.write_bytes(b"".join(encode_shard([*group("boot-0001"), *group("boot-0002")])))
    return path


def same(one: Sample, other: Sample) -> bool:
    """Compare all fields, NaN with NaN."""
    plain, turned = (replace(sample, scores={}) for sample in (one, other))
    return plain == turned and sorted(map(repr, one.scores.items())) == sorted(map(repr, other.scores.items()))


def test_every_field_of_every_sample_survives() -> None:
    samples = group()
    found = decode_shard(b"".join(encode_shard(samples)))
    assert all(same(one, other) for one, other in zip(samples, found, strict=True))
    assert math.isnan(found[1].scores["directional"])


def test_the_same_samples_make_the_same_bytes() -> None:
    first, second = (hashlib.sha256(b"".join(encode_shard(group()))).hexdigest() for _ in range(2))
    assert first == second


def test_the_order_of_open_mappings_does_not_change_the_bytes() -> None:
    sample = group()[2]
    turned = replace(sample, scores=dict(reversed(sample.scores.items())))
    assert list(encode_shard([sample])) == list(encode_shard([turned]))


def test_the_bytes_of_a_shard_never_change_between_versions() -> None:
    sample = replace(group()[2], image=b"\xff\xd8\xff fixed")
    digest = hashlib.sha256(b"".join(encode_shard([sample]))).hexdigest()
    assert digest == "5a926150e85d8b445355a8d40b42b0b05e0c25ac83542812e5f3814a631e5493"


def test_the_json_is_strict_and_has_one_type_a_field() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    records = [json.loads(sample_to_json(sample), parse_constant=refuse) for sample in group()]
    types = [{name: type(value) for name, value in record.items()} for record in records]
    assert all(found == types[0] for found in types)
    assert json.loads(records[1]["scores"], parse_constant=refuse) == {"directional": None, "image": 0.1 + 0.2}


def test_the_json_has_one_form_whatever_it_holds() -> None:
    hard = replace(
        group()[2],
        caption='\u2028 "\\" \x00\x1f\x7f \U0001f600',
        scores={"z": -0.0, "b": 1e300, "a": 5e-324, "nan": math.nan, "whole": 1},
        provenance={"z": [1, {"b": None, "a": True}], "a": {"y": 1.5, "x": {"q": "ü"}}, "s": "t", "none": {}},
    )
    for sample in [*group(), hard]:
        record = sample_to_json(sample)
        assert record == dump_json(json.loads(record)).encode()
        for name in ("attributes", "scores", "provenance", "reasons"):
            text = json.loads(record)[name]
            assert text == dump_json(json.loads(text))


@pytest.mark.parametrize("exponent", range(-12, 22))
def test_a_score_is_written_as_python_writes_it(exponent: int) -> None:
    chance = random.Random(exponent)
    # All written at once, and each alone: one hard number must not change how its neighbours are written.
    scores = {f"score-{number:03}": chance.uniform(-1, 1) * 10**exponent for number in range(200)}
    for some in (scores, *({name: value} for name, value in scores.items())):
        record = json.loads(sample_to_json(replace(group()[2], scores=some)))
        assert record["scores"] == dump_json(some)


def test_samples_that_share_a_mapping_have_the_bytes_of_those_that_do_not() -> None:
    samples = group()
    apart = [
        replace(
            sample,
            attributes=copy.deepcopy(sample.attributes),
            provenance=copy.deepcopy(sample.provenance),
        )
        for sample in samples
    ]
    assert samples[0].attributes is samples[3].attributes
    assert samples[2].provenance["model"] is samples[3].provenance["model"]
    assert b"".join(encode_shard(samples)) == b"".join(encode_shard(apart))


def test_a_refused_sample_is_told_before_any_piece_is_made() -> None:
    good, bad = group()[0], replace(group()[1], image=b"GIF89a")
    with pytest.raises(ShardError, match="neither JPEG nor PNG"):
        encode_shard(iter([good, bad]))


def test_an_infinite_score_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        sample_to_json(replace(group()[2], scores={"image": math.inf}))


def test_metadata_alone_reads_back_without_pixels() -> None:
    samples = group()
    found = decode_shard(b"".join(encode_shard(samples, images=False)))
    assert all(same(replace(one, image=b""), other) for one, other in zip(samples, found, strict=True))


def test_a_record_travels_without_a_tar() -> None:
    sample = group()[2]
    assert same(sample_from_json(sample_to_json(sample), sample.image), sample)


@pytest.mark.parametrize("key", ["a.b", "", "ü", "a/b", "x" * 96])
def test_a_key_that_other_readers_would_cut_is_refused(key: str) -> None:
    with pytest.raises(ShardError, match="cannot name a tar member"):
        encode_shard([replace(group()[0], key=key)])


def test_the_longest_key_is_read_back_by_tarfile() -> None:
    sample = replace(group()[0], key="x" * 95)
    with tarfile.open(fileobj=io.BytesIO(b"".join(encode_shard([sample])))) as archive:
        assert archive.getnames()[2] == "x" * 95 + ".json"


@pytest.mark.parametrize(("kind", "mode"), [("GIF", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("PNG", "I;16")])
def test_an_image_that_is_neither_jpeg_nor_png_of_rgb_is_refused(kind: str, mode: str) -> None:
    output = io.BytesIO()
    Image.new(mode, (4, 4)).save(output, kind)
    with pytest.raises(ShardError, match=r"neither JPEG nor PNG of 8-bit RGB, it begins b"):
        encode_shard([replace(group()[0], image=output.getvalue())])


# webdataset 1.0.2 leaves the closing of its file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_png_is_a_member_that_webdataset_decodes(tmp_path: Path) -> None:
    import webdataset

    samples = [replace(sample, image=picture((1, 2, 3), "PNG")) for sample in group()]
    data = b"".join(encode_shard(samples))
    assert decode_shard(data) == samples
    (tmp_path / "a.tar").write_bytes(data)
    found = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("pil"))
    assert [row["png"].getpixel((0, 0)) for row in found] == [(1, 2, 3)] * len(samples)


@pytest.mark.parametrize("cut", [1, 700, 9_000, 10_240, 15_000])
def test_a_cut_tar_is_reported_with_its_name(cut: int, tar: Path) -> None:
    with pytest.raises(ShardError, match=r"s/000000\.tar is damaged"):
        decode_shard(tar.read_bytes()[:-cut], "s/000000.tar")


def test_tarfile_reads_members_with_fixed_metadata(tar: Path) -> None:
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
        image = archive.extractfile("boot-0001.jpg")
        assert image is not None
        assert image.read() == group()[0].image
    assert [member.name for member in members[:3]] == ["boot-0001.cls", "boot-0001.jpg", "boot-0001.json"]
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.isfile()) for m in members} == {
        (315_532_800, 0, 0, 0o644, "", True)
    }


def test_the_headers_are_those_of_tarfile(tar: Path) -> None:
    output = io.BytesIO()
    with (
        tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as copy,
        tarfile.open(tar) as archive,
    ):
        for member in archive:
            copy.addfile(member, archive.extractfile(member))
    assert output.getvalue() == tar.read_bytes()


def test_plain_tar_extracts_without_a_word(tar: Path) -> None:
    result = subprocess.run(["tar", "-xvf", tar.name], cwd=tar.parent, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 24
    assert (tar.parent / "boot-0002-e0.jpg").read_bytes() == group()[2].image


def test_an_empty_shard_is_a_valid_tar(tmp_path: Path) -> None:
    path = tmp_path / "empty.tar"
    path.write_bytes(b"".join(encode_shard([])))
    assert decode_shard(path.read_bytes()) == []
    assert subprocess.run(["tar", "-tf", path], capture_output=True, check=True).stdout == b""


# webdataset 1.0.2 leaves the closing of its file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_the_shard(tar: Path) -> None:
    import webdataset

    rows = list(
        webdataset.WebDataset(str(tar), shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "json", "cls")
    )
    assert [row[0] for row in rows[:4]] == [sample.key for sample in group()]
    assert {row[3] for row in rows} == {3}
    assert rows[2][1].size == (16, 12)
    assert rows[2][2]["edit_after"] == "snow ❄"


def test_hugging_face_reads_the_shard(tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    data = datasets.load_dataset(
        "webdataset", data_files={"train": str(tar)}, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert data["__key__"][:4] == [sample.key for sample in group()]
    assert data[2]["jpg"].size == (16, 12)
    assert data[2]["json"]["edit_kind"] == "background"
    assert data[2]["cls"] == 3


def test_hugging_face_reads_a_shard_whose_first_edits_come_late(tmp_path: Path) -> None:
    import datasets

    sources = [replace(group(f"a-{number}")[0], attributes={}) for number in range(6)]
    path = tmp_path / "late.tar"
    path.write_bytes(b"".join(encode_shard([*sources, *group("z")])))
    data = datasets.load_dataset(
        "webdataset", data_files={"train": str(path)}, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert data[8]["json"]["edit_after"] == "snow ❄"
