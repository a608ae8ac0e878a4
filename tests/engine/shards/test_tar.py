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
from engine.shards.record import Fields, RecordWriter, dump_json
from engine.shards.tar import decode_shard, encode_shard


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


# What a shard keeps of it: no null, and a list as a text.
PLAIN = {"seed": 2**63 - 1, "model": {"name": "zoo/editor", "revision": ""}, "steps": "1, 2.5, True"}


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "000000.tar"
    path.write_bytes(b"".join(encode_shard([*group("boot-0001"), *group("boot-0002")])))
    return path


def defined(sample: Sample) -> Sample:
    """Return the sample as it comes back: scores that are NaN and blanks in what stages noted are left out."""
    scores = {name: float(value) for name, value in sample.scores.items() if value == value}
    return replace(sample, scores=scores)


def test_every_field_of_every_sample_survives() -> None:
    samples = group()
    found = decode_shard(b"".join(encode_shard(samples)))
    plain = [replace(defined(sample), provenance=PLAIN if sample.provenance else {}) for sample in samples]
    assert found == plain


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
    assert digest == "66c838cfc947a1d483d60389005e3790c5cd423b554669dc4dc47278d7fb9bef"


def record(sample: Sample, *others: Sample) -> dict[str, object]:
    return json.loads(RecordWriter(Fields.of([sample, *others])).json(sample))


def test_each_field_has_one_type_in_all_records_and_none_is_null() -> None:
    records = [record(sample, *group()) for sample in group()]

    def types(value: object) -> object:
        if isinstance(value, dict):
            return {name: types(each) for name, each in value.items()}
        return type(value)

    assert all(types(found) == types(records[0]) for found in records)
    assert all(b"null" not in RecordWriter(Fields.of(group())).json(sample) for sample in group())
    assert records[1]["score_image"] == 0.1 + 0.2
    assert math.isnan(records[1]["score_directional"])
    assert records[2]["attribute_größe"] == "42"
    assert records[2]["provenance"] == PLAIN
    assert records[3]["reasons"] == "min_image,blank"


def test_the_record_has_one_form_whatever_it_holds() -> None:
    hard = replace(
        group()[2],
        caption='\u2028 "\\" \x00\x1f\x7f \U0001f600',
        scores={"z": -0.0, "b": 1e300, "a": 5e-324, 'q"': 0.5, "whole": 1},
        provenance={"z": [1, {"b": None, "a": True}], "a": {"y": 1.5, "x": {"q": "ü"}}, "s": "t", "none": {}},
        target={"boot": 0.25, "coat": 0.75},
        verdict=Verdict(accepted=True, notes={"question": "yes, a 'boot'"}),
        edit=replace(group()[2].edit, strategy="fill", target="coat", turn=2, region="3 4", steered=True),
    )
    for sample in [*group(), hard]:
        text = RecordWriter(Fields.of([sample])).json(sample)
        assert text == dump_json(json.loads(text)).encode()
        (found,) = decode_shard(b"".join(encode_shard([sample])))
        again = replace(defined(sample), provenance=found.provenance)
        assert found == again
        assert b"".join(encode_shard([found])) == b"".join(encode_shard([sample]))


def test_what_is_read_and_written_again_has_the_same_bytes() -> None:
    samples = group()
    fields = Fields.of(samples)
    data = b"".join(encode_shard(samples, fields))
    found = decode_shard(data)
    assert Fields.of(found) == fields
    assert b"".join(encode_shard(found, Fields.of(found))) == data


def test_values_of_types_that_do_not_go_together_become_texts() -> None:
    one, other = (replace(group()[2], provenance={"mine": {"size": value}}) for value in (3, "large"))
    assert record(one, other)["provenance"] == {"mine": {"size": "3"}}
    assert record(other, one)["provenance"] == {"mine": {"size": "large"}}
    whole, half = (replace(group()[2], provenance={"mine": {"scale": value}}) for value in (7, 7.5))
    assert record(whole, half)["provenance"] == {"mine": {"scale": 7.0}}


@pytest.mark.parametrize("exponent", range(-12, 22))
def test_a_score_is_written_as_python_writes_it(exponent: int) -> None:
    chance = random.Random(exponent)
    scores = {f"score-{number:03}": chance.uniform(-1, 1) * 10**exponent for number in range(200)}
    text = RecordWriter(Fields.of([replace(group()[2], scores=scores)])).json(replace(group()[2], scores=scores))
    for name, value in scores.items():
        assert f'"score_{name}":{json.dumps(value)},'.encode() in text


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
        record(replace(group()[2], scores={"image": math.inf}))


def test_metadata_alone_reads_back_without_pixels() -> None:
    samples = group()
    found = decode_shard(b"".join(encode_shard(samples, images=False)))
    assert found == [replace(sample, image=b"") for sample in decode_shard(b"".join(encode_shard(samples)))]


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
    assert [sample.image for sample in decode_shard(data)] == [sample.image for sample in samples]
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
