import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from tint_runs import make_in_process
from tiny_models import save_language_model

from actors.language.generation import Ask
from engine.errors import RunError
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a language model that writes tokens by chance."""
    return save_language_model(tmp_path_factory.mktemp("models") / "lm")


def asking_run(model: Path, edits: int) -> RunFile:
    """Return a run of three shards of four sources, which ends with the language model."""
    return RunFile.model_validate(
        {
            "name": "asking",
            "data": {
                "train": {"kind": "wardrobe", "split": "sources", "count": 12, "captions": True},
                "splits": {"train": 1.0, "validation": 0.0, "test": 0.0},
            },
            "shards": {"sources_per_shard": 4},
            "stages": {
                "perturber": {
                    "kind": "perturber",
                    "model": {"name": str(model)},
                    "edits": {"background": edits},
                    "retries": 0,
                    "max_new_tokens": 8,
                }
            },
            "probe": {"callable": "tiny_stages:always_first"},
        }
    )


class Obedient:
    """Write a valid edit of each caption: the background becomes the moon, or a second one the sea."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def texts(self, asks: deque[Ask]) -> Iterator[tuple[Ask, str]]:
        while asks:
            ask = asks.popleft()
            found = re.search(r"caption: (.* on) (.*?)( in .* light)?\n", ask.prompt)
            assert found
            caption = f"{found[1]} the moon{found[3] or ''}"
            edit = {"before": found[2], "after": "the moon", "caption": caption, "instruction": "put it there"}
            yield ask, f"<think>Where to?</think>\n```json\n{json.dumps(edit)}\n```<|im_end|>"


def test_a_model_without_a_valid_reply_ends_the_run_at_its_first_shard(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = asking_run(model, edits=2)
    for _ in range(4):  # as often as the command is given
        with pytest.raises(
            RunError, match=r"none of the 8 edits .*reply_not_json 8\), such as: no JSON object.*reply: "
        ):
            make_in_process(run, tmp_path / "run", [1, 0])
    assert RunDirectory.open(str(tmp_path / "run")).done() == []
    monkeypatch.setattr("actors.perturber.chat.make_writer", lambda *_: Obedient())
    rundir = make_in_process(run, tmp_path / "run", [1, 0, 2])
    counts = [marker.counts for marker in rundir.markers().values()]
    assert [count.candidates for count in counts] == [8, 8, 8]
    # A source's second edit repeats the first; what is valid has no editor here.
    assert [count.quarantined for count in counts] == 3 * [{"duplicate_edit": 4, "no_image": 8}]


def test_small_shards_are_counted_together(model: Path, tmp_path: Path) -> None:
    run = asking_run(model, edits=1)
    with pytest.raises(RunError, match="none of the 8 edits"):
        make_in_process(run, tmp_path / "run", [0, 1, 2])
    rundir = RunDirectory.open(str(tmp_path / "run"))
    assert rundir.done() == [0]
    with pytest.raises(RunError, match="none of the 8 edits"):
        make_in_process(run, tmp_path / "run", [2, 1])


def test_captions_that_are_all_missing_end_the_run_too(model: Path, tmp_path: Path) -> None:
    run = asking_run(model, edits=2)
    train = run.data.train.model_copy(update={"captions": False})
    run = run.model_copy(update={"data": run.data.model_copy(update={"train": train})})
    with pytest.raises(RunError, match=r"no_caption 8\), such as: the source has no caption: give captions"):
        make_in_process(run, tmp_path / "run", [0])
