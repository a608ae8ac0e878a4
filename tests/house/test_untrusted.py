"""What comes from outside is read as data: run files, tars, tables, folders, shards; none of it runs or leads out."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import picture, tiny_plan, tiny_results

from actors.perturber.prompts import system_prompt, user_prompt
from engine.errors import RunFileError, ShardError, SourceError
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory, rejected_path, shard_path
from engine.runfile.data import FolderSource, TableSource, TarSource
from engine.runfile.load import load_run_file
from engine.sample import Rejection
from engine.shards.tar import decode_shard
from engine.sources import open_source, read_sample
from engine.training.deepspeed import deepspeed_settings

RUN = """\
name: demo
data: {train: {kind: folder, path: photos}}
stages: {captioner: {kind: captioner, model: {name: zoo/captioner}}}
probe: {model: {name: zoo/patient}}
"""


class Evil:
    """Make a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [{mark}]",
        "!!python/object/new:os.mkdir {{args: [{mark}]}}",
        "!!python/name:os.mkdir",
        "!!python/module:antigravity",
        "!!python/object:engine.errors.RunError {{}}",
        "!mine {{}}",
    ],
)
def test_a_tag_in_a_run_file_or_an_override_makes_no_object(tmp_path: Path, tag: str) -> None:
    text = tag.format(mark=tmp_path / "ran")
    path = tmp_path / "run.yaml"
    path.write_text(f"{RUN}seed: {text}\n")
    with pytest.raises(RunFileError, match=r"run\.yaml:5:7: not valid YAML: could not determine a constructor"):
        load_run_file(path)
    path.write_text(RUN)
    with pytest.raises(RunFileError, match=r"--set seed=.*: the value is not YAML: could not determine a constructor"):
        load_run_file(path, [f"seed={text}"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../../out", "a/b", "/etc/x", "..", "a b", "\x1b[2J", ""])
def test_a_stage_s_name_is_no_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    stages = {name: {"kind": "captioner", "model": {"name": "zoo/captioner"}}}
    with pytest.raises(RunFileError, match="stages: a name is letters, digits, _ and -, got"):
        load_run_file(path, [f"stages={json.dumps(stages)}"])


def test_deepspeed_settings_import_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    for module, is_refused in (("antigravity.Flight", True), ("torch.nn.Linear", False)):
        run = load_run_file(
            path, [f"reinforce.deepspeed={{torch_autocast: {{lower_precision_safe_modules: [{module}]}}}}"]
        )
        if is_refused:
            with pytest.raises(RunFileError, match=r"names 'antigravity\.Flight', which DeepSpeed would import"):
                deepspeed_settings(run.reinforce)
        else:
            deepspeed_settings(run.reinforce)


def test_names_and_captions_are_no_templates() -> None:
    hostile = "{0.__class__} {meaning} {{x}} %s {{ 1 + 1 }}"
    told = system_prompt("background", hostile, wanted=hostile) + user_prompt(hostile, hostile, "background")
    assert told.count(hostile) == 4


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> TarSource:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return TarSource(path=str(path))


def listing_error(config: TarSource) -> str:
    with pytest.raises(SourceError) as caught:
        list(open_source(config).items())
    return str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("is_first", [True, False])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes, is_first: bool) -> None:
    link = tarfile.TarInfo("2.jpg")
    link.type, link.linkname = kind, "/etc/passwd"
    sample = [(tarfile.TarInfo("1.jpg"), picture((1, 2, 3))), (tarfile.TarInfo("1.cls"), b"0")]
    members = [(link, b""), *sample] if is_first else [*sample, (link, b"")]
    assert "member '2.jpg' is a link or device" in listing_error(write_tar(tmp_path / "a.tar", *members))


@pytest.mark.parametrize("name", ["/etc/1.jpg", "../1.jpg", "a/../../1.jpg", "./../1.jpg", "x/" * 80 + "../../1.jpg"])
def test_names_that_lead_out_of_a_tar_are_refused(tmp_path: Path, name: str) -> None:
    config = write_tar(tmp_path / "a.tar", (tarfile.TarInfo(name), picture((1, 2, 3))))
    assert "leads out of the tar" in listing_error(config)


@pytest.mark.parametrize("extension", ["pkl", "PKL", "pyd", "pth", "pt", "npy", "npz", "pickle", "x.joblib", "ckpt"])
def test_members_that_are_pickles_are_refused_and_not_read(tmp_path: Path, extension: str) -> None:
    array = io.BytesIO()
    np.save(array, np.array([Evil(tmp_path / "ran")], dtype=object), allow_pickle=True)
    data = array.getvalue() if extension == "npy" else pickle.dumps(Evil(tmp_path / "ran"))
    sample = [(tarfile.TarInfo("1.jpg"), picture((1, 2, 3))), (tarfile.TarInfo("1.cls"), b"0")]
    config = write_tar(tmp_path / "a.tar", *sample, (tarfile.TarInfo(f"1.{extension}"), data))
    assert "may hold a pickle, which can run code" in listing_error(config)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["1.jpg", "1.cls", "1.json", "1.txt"])
def test_a_pickle_under_the_name_of_a_text_or_an_image_is_not_run(tmp_path: Path, name: str) -> None:
    data = {"1.jpg": picture((1, 2, 3)), "1.json": b'{"label": "cat"}'} | {name: pickle.dumps(Evil(tmp_path / "ran"))}
    config = write_tar(tmp_path / "a.tar", *((tarfile.TarInfo(each), data[each]) for each in sorted(data)))
    try:
        source = open_source(config)
        results = [read_sample(source, item, "train") for item in source.items()]
    except SourceError:
        results = []
    assert name != "1.jpg" or isinstance(results[0], Rejection)
    assert not (tmp_path / "ran").exists()


def test_a_dataset_s_paths_are_not_opened(tmp_path: Path) -> None:
    """A row of a Hugging Face dataset may name a file instead of holding its bytes."""
    import pyarrow as pa
    from datasets import Dataset, Features, Image, Value
    from pyarrow import ipc

    from engine.runfile.data import HuggingFaceSource

    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture((9, 9, 9)))
    features = Features({"image": Image(), "label": Value("string")})
    rows = {"image": [{"path": str(secret), "bytes": None}], "label": ["cat"]}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    # save_to_disk puts the bytes in; what others write need not.
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    with ipc.open_stream(arrow.read_bytes()) as reader:
        table = reader.read_all()
    field = table.schema.field("image")
    bare = pa.array([{"bytes": None, "path": str(secret)}], field.type)
    with ipc.new_stream(arrow, table.schema) as writer:
        writer.write_table(table.set_column(table.schema.get_field_index("image"), field, bare))
    source = open_source(HuggingFaceSource(path=str(tmp_path / "saved")))
    (item,) = source.items()
    found = read_sample(source, item, "train")
    assert isinstance(found, Rejection)
    assert found.reason == "missing_file"


def test_links_and_paths_out_of_a_folder_or_table_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture((9, 9, 9)))
    inside = tmp_path / "images" / "cat"
    inside.mkdir(parents=True)
    (inside / "1.jpg").write_bytes(picture((1, 2, 3)))
    (inside / "2.jpg").symlink_to(tmp_path / "secret.jpg")
    (inside / "3.jpg").symlink_to("../../secret.jpg")
    (tmp_path / "images" / "t.csv").write_text(
        f"path,label\ncat/1.jpg,0\n../secret.jpg,0\ncat/../../secret.jpg,0\n{tmp_path}/secret.jpg,0\ncat/2.jpg,0\n"
    )
    for config, num_refused in (
        (FolderSource(path=str(tmp_path / "images")), 2),
        (TableSource(path=str(tmp_path / "images" / "t.csv")), 4),
    ):
        source = open_source(config)
        found = [read_sample(source, item, "train") for item in source.items()]
        assert [each.reason for each in found if isinstance(each, Rejection)] == ["outside_root"] * num_refused
        assert len(found) == num_refused + 1


def test_keys_of_a_foreign_shard_name_no_file(tmp_path: Path) -> None:
    """A shard that another has written may call its samples what it likes: nothing is extracted by name."""
    from engine.report.contact_sheet import sheet_of_run
    from engine.report.label_page import make_label_page
    from engine.report.page import write_report

    run, plan = tiny_plan(tmp_path)
    rundir = RunDirectory.create(str(tmp_path / "runs" / "one"), run, plan)
    for index in range(plan.num_shards):
        commit_shard(rundir, index, plan.keys(index), tiny_results(plan, index), {})
        for path in map(rundir.storage.local_path, (shard_path(index), rejected_path(index))):
            path.write_bytes(renamed(path.read_bytes(), "../../../out/"))
    assert all(sample.key.startswith("../../../out/") for sample in rundir.read_shard(0))
    before = {path for path in tmp_path.rglob("*") if "runs/one" not in str(path)}
    write_report(rundir, run)
    sheet_of_run(rundir, 4)
    make_label_page(rundir, 4)
    assert {path for path in tmp_path.rglob("*") if "runs/one" not in str(path)} == before


def renamed(data: bytes, prefix: str) -> bytes:
    """Return a shard in which every key, and so every member's name, begins with a prefix."""
    output = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=output, mode="w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            content = file.read()
            if member.name.endswith(".json"):
                record = json.loads(content)
                keys = {name: prefix + record[name] for name in ("key", "source_key")}
                content = json.dumps(record | keys).encode()
            # Dots end a key.
            member.name = prefix.replace(".", "") + member.name
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return output.getvalue()


@pytest.mark.parametrize("record", [b"[]", b"[" * 100_000, b'{"scores": "[]", "edit_kind": 1}', b"1"])
@pytest.mark.parametrize("name", ["a.json", "json"])
def test_a_shard_of_something_else_is_refused(tmp_path: Path, record: bytes, name: str) -> None:
    write_tar(tmp_path / "a.tar", (tarfile.TarInfo(name), record))
    with pytest.raises(ShardError, match=r"a\.tar is damaged"):
        decode_shard((tmp_path / "a.tar").read_bytes(), "a.tar")
