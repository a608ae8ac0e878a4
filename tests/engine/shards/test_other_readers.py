"""The demo's own shards, as other people's tools read them: typed columns, nothing to parse."""

import json
import math
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from repository import DEMO

from actors.build import build_stage
from cluster.phases.generate import read_planned
from engine.plan.plan import make_plan
from engine.run.commit import commit_shard
from engine.run.directory import RunDirectory
from engine.runfile.load import load_run_file

SIZES = [
    "data.num_sources=4",
    "data.num_validation_sources=0",
    "shards.sources_per_shard=2",
    "stages.editor.num_inference_steps=2",
    "stages.verifier.min_directional=0.6",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of the demo, made in this process by its own stages."""
    out = tmp_path_factory.mktemp("demo") / "run"
    run = load_run_file(DEMO, SIZES)
    plan = make_plan(run)
    rundir = RunDirectory.create(str(out), run, plan)
    stages = [build_stage(config, name=name, seed=run.seed, offline=True) for name, config in run.stages.items()]
    for index in range(plan.num_shards):
        row = read_planned(run.data.train, index, plan.shard(index))
        samples, rejections = list(row.samples), list(row.rejections)
        for stage in stages:
            results = list(stage(samples))
            samples = [result for result in results if not hasattr(result, "reason")]
            rejections += [result for result in results if hasattr(result, "reason")]
        commit_shard(rundir, index, plan.keys(index), [*samples, *rejections], {})
    return out / "shards"


def check(record: dict[str, object]) -> None:
    """The record of an edit, whoever read it."""
    assert isinstance(record["score_image"], float)
    assert 0 < record["score_image"] <= 1
    assert isinstance(record["score_directional"], float)
    assert record["attribute_background"] in ("brick", "grass", "gravel", "sand", "sky", "snow", "water", "wood")
    assert isinstance(record["edit_turn"], int)
    assert record["edit_steered"] is False
    provenance = record["provenance"]
    assert isinstance(provenance, dict)
    assert provenance["editor"]["num_inference_steps"] == 2
    assert isinstance(provenance["editor"]["seed"], int)
    assert provenance["verifier"]["model"]["name"] == "zoo/verifier"


def test_tar_and_json(shards: Path) -> None:
    for path in shards.glob("*.tar"):
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member) for member in archive}
            records = [json.load(file) for name, file in files.items() if name.endswith(".json") and file]
        edits = [record for record in records if record["role"] == "counterfactual"]
        assert edits
        for edit in edits:
            check(edit)
        sources = [record for record in records if record["role"] == "source"]
        assert all(math.isnan(source["score_image"]) for source in sources)


# webdataset 1.0.2 leaves the closing of its file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset(shards: Path) -> None:
    import webdataset

    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    rows = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    edits = [row for row in rows if row["json"]["role"] == "counterfactual"]
    check(edits[0]["json"])
    assert edits[0]["jpg"].size == (64, 64)
    assert {type(row["cls"]) for row in rows} == {int}


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets(shards: Path, tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    files = {"train": [str(path) for path in sorted(shards.glob("*.tar"))]}
    data = datasets.load_dataset(
        "webdataset", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
    )
    kinds = data.features["json"]
    assert kinds["score_directional"].dtype == "float64"
    assert kinds["attribute_colour"].dtype == "string"
    assert kinds["provenance"]["editor"]["seed"].dtype == "int64"
    edits = [row for row in data if row["json"]["role"] == "counterfactual"]
    check(edits[0]["json"])
    assert edits[0]["jpg"].size == (64, 64)


def test_pandas(shards: Path) -> None:
    table = pd.concat([pd.read_parquet(path) for path in sorted(shards.glob("*.parquet"))], ignore_index=True)
    assert table["score_directional"].dtype == "float64"
    assert table["accepted"].dtype == "bool"
    assert table["edit_turn"].dtype == "int32"
    assert set(table["role"]) == {"placebo", "counterfactual"}
    placebos = table[table["role"] == "placebo"]
    assert placebos["score_directional"].isna().all()
    check(table[table["role"] == "counterfactual"].iloc[0].to_dict() | {"edit_turn": 1, "edit_steered": False})
