"""A shard through Ray Data: whole, once, in any number of workers."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ray.data.block import BlockAccessor
from repository import ROOT
from tint_runs import NUM_SHARDS, contents, generate, make_in_process, tint_run, write_images
from tiny_runs import tiny_group
from tiny_stages import Broken

from cluster.dataflow.blocks import from_block, to_block
from cluster.dataflow.dataflow import data_context
from cluster.dataflow.shard_row import ShardRow
from cluster.dataflow.stage_group import StageGroup, apply_stage
from engine.errors import RunError
from engine.run.samples import read_samples
from engine.runfile.load import load_run_file
from engine.runfile.run import RunFile
from engine.sample import Rejection, Sample
from engine.shards.record import Fields, RecordWriter


def tiny_row() -> ShardRow:
    results = tiny_group("a-0") + tiny_group("b-1", 1)
    return ShardRow(
        shard=7,
        planned=["a-0", "b-1"],
        samples=[result for result in results if isinstance(result, Sample)],
        rejections=[result for result in results if isinstance(result, Rejection)],
        seconds={"read": 0.25},
    )


def travelled(row: ShardRow) -> ShardRow:
    """Return a shard as the next actor has it: Ray pickles blocks, with buffers beside."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(to_block(row), pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    return from_block(pickle.loads(pickled, buffers=buffers))


def stored(row: ShardRow) -> list[tuple[bytes, bytes]]:
    """What is compared, as a score that is NaN is not equal to itself."""
    records = RecordWriter(Fields.of(row.samples))
    return [(records.json(sample), sample.image) for sample in row.samples]


def test_a_shard_arrives_unchanged() -> None:
    row = tiny_row()
    back = travelled(row)
    assert back.planned == row.planned
    assert back.seconds == row.seconds
    assert list(back.rejections) == list(row.rejections)
    assert stored(back) == stored(row)


def test_pictures_arrive_as_views_and_are_not_copied() -> None:
    row = tiny_row()
    for sample, came in zip(row.samples, travelled(travelled(row)).samples, strict=True):
        assert isinstance(came.image, memoryview)
        assert came.image.readonly
        assert np.shares_memory(np.frombuffer(sample.image, np.uint8), np.frombuffer(came.image, np.uint8))


def test_ray_data_is_told_how_much_memory_a_shard_takes() -> None:
    row = tiny_row()
    images = sum(len(sample.image) for sample in row.samples)
    assert images <= BlockAccessor.for_block(to_block(row)).size_bytes() <= images + 1000


def test_a_slice_of_a_block_is_still_the_shard() -> None:
    rows = [tiny_row(), ShardRow(shard=8, planned=["a-0"], samples=[]), replace(tiny_row(), shard=9)]
    all_three = pd.concat([to_block(row) for row in rows])
    for place, row in enumerate(rows):
        back = travelled(from_block(all_three[place : place + 1]))
        assert back.shard == row.shard
        assert stored(back) == stored(row)


def test_what_samples_share_they_share_still() -> None:
    first, *others = tiny_row().samples
    shared = {"model": {"name": "zoo/captioner"}}
    samples = [replace(sample, provenance={**sample.provenance, "captioner": shared}) for sample in (first, *others)]
    back = travelled(replace(tiny_row(), samples=samples))
    assert len({id(sample.provenance["captioner"]) for sample in back.samples}) == 1
    assert len(back.samples) > 2


def test_a_sample_without_an_image_arrives_without_one() -> None:
    bare = [replace(sample, image=b"") for sample in tiny_row().samples]
    back = travelled(replace(tiny_row(), samples=bare))
    assert stored(back) == stored(replace(tiny_row(), samples=bare))
    assert not any(sample.image for sample in back.samples)


def test_two_shards_in_one_batch_are_refused() -> None:
    with pytest.raises(RunError, match="2 shards"):
        from_block(pd.concat([to_block(tiny_row()), to_block(tiny_row())]))


def test_a_stage_that_yields_something_else_is_named() -> None:
    with pytest.raises(RunError, match="stage 'mine' yielded a str, it must yield Sample or Rejection"):
        apply_stage("mine", Broken({"how": "other"}, None, name="mine", seed=0), tiny_row())


def test_ray_data_is_set_to_lose_and_hang_nothing() -> None:
    context = data_context()
    assert context.target_max_block_size is None
    assert context.max_errored_blocks == 0
    assert context.execution_no_progress_timeout_s == -1
    assert context.max_consecutive_actor_init_deaths > 0


def test_grouping_and_order_change_no_byte(tmp_path: Path) -> None:
    # What the actors and tasks do, without Ray: the same functions on the same blocks.
    images = write_images(tmp_path / "images")
    make_in_process(tint_run(images), tmp_path / "apart", [0, 1, 2, 3])
    make_in_process(tint_run(images, grouped=True), tmp_path / "grouped", [3, 1, 0, 2])
    assert len(contents(tmp_path / "apart")) > 8
    assert contents(tmp_path / "apart") == contents(tmp_path / "grouped")


@pytest.mark.slow
def test_neither_more_workers_nor_a_death_change_a_byte(generation_ray: None, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    make_in_process(tint_run(images), tmp_path / "calm", range(NUM_SHARDS))
    # Another plan digest, but the same samples: the option says only where to remember the death.
    generate(tint_run(images, replicas=(2, 2), tint={"die_once": str(tmp_path / "died")}), tmp_path / "killed")
    calm = contents(tmp_path / "calm")
    assert len([name for name in calm if name.startswith("shards") and name.endswith(".tar")]) == 4
    assert len({data for name, data in calm.items() if name.endswith(".tar")}) > 4
    assert os.path.exists(tmp_path / "died")
    assert calm == contents(tmp_path / "killed")


@pytest.mark.slow
def test_the_zoo_makes_the_same_bytes_with_one_worker_and_two(generation_ray: None, tmp_path: Path) -> None:
    small = ["data.num_sources=6", "data.num_validation_sources=0", "shards.sources_per_shard=2"]
    small += ["stages.editor.num_inference_steps=3"]
    # Of the run's classes, which the actors are told.
    small += [
        "stages.verifier.signals.label={kind: diffusion, model: {name: zoo/editor}, samples: [1], keep: []}",
        "stages.verifier.signals.near={kind: clip, model: {name: zoo/verifier}, templates: ['a photo of a {}']}",
    ]

    def wardrobe(replicas: int) -> RunFile:
        placement = f"stages.editor.placement.replicas=[{replicas}, {replicas}]"
        groups = "groups=[[captioner, perturber], [editor, verifier]]"
        return load_run_file(ROOT / "configs" / "wardrobe.yaml", [*small, placement, groups])

    make_in_process(wardrobe(1), tmp_path / "one", [2, 0, 1])
    rundir = generate(wardrobe(2), tmp_path / "two")
    assert sum(name.endswith(".tar") and name.startswith("shards") for name in contents(tmp_path / "one")) == 3
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    edits = [sample for sample in read_samples(rundir, 0) if sample.role != "source"]
    margins = [edit.scores[name] for edit in edits for name in ("label", "near.class_margin")]
    assert margins
    assert all(np.isfinite(margins))


def test_a_shard_s_calls_are_those_made_for_it_alone(tmp_path: Path) -> None:
    stages = {"count": {"kind": "plugin", "target": "tiny_stages:Counting"}}
    from engine.storage.storage import Storage

    group = StageGroup(tint_run(tmp_path, stages=stages), ["count"], Storage(str(tmp_path)))
    row = replace(tiny_row(), calls={"before.asked": 7})
    for _ in range(2):
        assert from_block(group(to_block(row))).calls == {"before.asked": 7, "count.asked": len(row.samples)}
