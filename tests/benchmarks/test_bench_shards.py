"""The figures of writing, finishing and handing on, at tiny size: the arms of each do the same work."""

from pathlib import Path

import pytest

from engine.shards.tar import decode_shard, encode_shard
from tests.benchmarks import finish, handoff, writer
from tests.benchmarks.samples import EDITS_EACH, IMAGE_BYTES, make_samples


def test_samples_of_a_benchmark_can_be_stored() -> None:
    samples = make_samples(2)
    assert len(samples) == 2 * (1 + EDITS_EACH)
    assert {len(sample.image) for sample in samples} == {IMAGE_BYTES}
    stored = b"".join(encode_shard(samples))
    assert [sample.image for sample in decode_shard(stored)] == [sample.image for sample in samples]
    assert b"".join(encode_shard(decode_shard(stored))) == stored


def test_both_writers_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "NUM_SOURCES", 1)
    monkeypatch.setattr(writer, "MEMORY", tmp_path)
    figures = {figure.name: figure for figure in writer.writer_figures(tmp_path / "disk")}
    assert (figures["writer.times_webdataset"].target, figures["writer.share_of_raw_write"].target) == (7.0, 0.65)
    assert figures["writer_on_disk.times_webdataset"].target is None
    assert all(figure.value > 0 for figure in figures.values())
    assert list(tmp_path.iterdir()) == []


def test_both_ways_to_finish_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small pictures have full colour, which stock saving does not give them.
    monkeypatch.setattr(finish, "NUM_PICTURES", {256: 1})
    monkeypatch.setattr(finish, "MEMORY", tmp_path)
    names = [figure.name for figure in finish.finish_figures(tmp_path)]
    assert names[0] == "finish.times_stock_256"
    assert "finish.share_of_encoder_256" in names
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_hand_over_is_measured_through_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "NUM_SOURCES", 1)
    monkeypatch.setattr(handoff, "NUM_PICTURES", 1)
    monkeypatch.setattr(handoff, "STORE_BYTES", 1 << 20)
    figures = {figure.name: figure for figure in handoff.handoff_figures(tmp_path)}
    assert (figures["handoff.times_pil_list"].better, figures["handoff.times_memcpy"].better) == ("higher", "lower")
    assert all(figure.value > 0 for figure in figures.values())
