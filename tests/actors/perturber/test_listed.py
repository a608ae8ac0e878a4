from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from tiny_models import jpeg

from actors.language.answers import BadReply
from actors.perturber.interviews import make_requests
from actors.perturber.listed import listed_replies
from actors.perturber.perturber import Perturber
from actors.perturber.replies import Reply, check_edit
from engine.runfile.perturber import PerturberConfig
from engine.sample import Rejection, Sample

GROUNDS = ("grass", "snow", "sand", "water")


def source(caption: str, key: str = "a") -> Sample:
    return Sample(
        key=key, source_key=key, role="source", image=jpeg(), label=0, class_name="sandal", split="train",
        caption=caption,
    )  # fmt: skip


def replies(caption: str, values: Mapping[str, Sequence[str]], **edits: int) -> list[Reply | BadReply]:
    config = PerturberConfig.model_validate({"edits": edits, "values": values})
    return list(listed_replies(make_requests(source(caption), config, 5), config.values, 5).values())


def test_the_value_that_the_caption_names_becomes_others_none_twice() -> None:
    found = replies("a photo of a red sandal on grass with a ball", {"background": GROUNDS}, background=3)
    assert {reply.after for reply in found if isinstance(reply, Reply)} == {"snow", "sand", "water"}
    for reply in found:
        assert isinstance(reply, Reply)
        assert reply.before == "grass"
        assert reply.caption == f"a photo of a red sandal on {reply.after} with a ball"
        assert reply.instruction == f"change the background to {reply.after}"


def test_a_fourth_edit_of_three_other_values_is_refused_and_says_so() -> None:
    *_, last = replies("a sandal on grass", {"background": GROUNDS}, background=4)
    assert isinstance(last, BadReply)
    assert last.reason == "no_listed_value"


@pytest.mark.parametrize(
    ("caption", "thing", "left"),
    [
        ("a photo of a red sandal on grass with a ball", "ball", "a photo of a red sandal on grass"),
        ("a sandal, an old lamp and a ball on sand", "ball", "a sandal, an old lamp on sand"),
        ("a ball next to a sandal", "sandal box", None),
        ("a sandal beside the beach ball", "beach ball", "a sandal"),
    ],
)
def test_a_removal_takes_the_thing_out_of_the_caption(caption: str, thing: str, left: str | None) -> None:
    (reply,) = replies(caption, {"removal": (thing,)}, removal=1)
    if left is None:
        assert isinstance(reply, BadReply)
        assert "names none of sandal box" in reply.detail
        return
    assert reply == Reply(before=thing, after=f"no {thing}", caption=left, instruction=f"remove the {thing}")


def test_the_class_is_never_taken_away() -> None:
    (reply,) = replies("a sandal on grass", {"removal": ("sandal",)}, removal=1)
    assert isinstance(reply, BadReply)
    assert reply.reason == "edit_touches_class"


def test_a_removal_that_leaves_the_thing_in_its_caption_is_refused() -> None:
    said = Reply(before="a ball", after="no ball", caption="a red sandal and a ball", instruction="remove the ball")
    problem = check_edit(said, caption="a sandal and a ball", words=("sandal",), kind="removal")
    assert problem is not None
    assert problem.reason == "edit_removes_nothing"
    right = replace(said, caption="a sandal")
    assert check_edit(right, caption="a sandal and a ball", words=("sandal",), kind="removal") is None


def test_a_perturber_with_listed_values_needs_no_model() -> None:
    config = PerturberConfig(
        edits={"background": 1, "removal": 1}, values={"background": GROUNDS, "removal": ("ball",)}
    )
    stage = Perturber(config, torch.device("cpu"), name="perturber", seed=1, offline=True)
    batch = [source("a red sandal on grass with a ball", "a"), source("a red sandal on grass", "b")]
    results = {item.key: item for item in stage(batch)}
    removed = results["a_cf01"]
    assert isinstance(removed, Sample)
    assert removed.edit is not None
    assert removed.edit.caption == "a red sandal on grass"
    missing = results["b_cf01"]
    assert isinstance(missing, Rejection)
    assert missing.reason == "no_listed_value"
    assert list(stage(batch[:1])) == [item for item in stage(batch) if item.source_key == "a"]


def test_kinds_without_values_or_a_model_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"list values\.colour"):
        PerturberConfig(edits={"background": 1, "colour": 1}, values={"background": GROUNDS})
    with pytest.raises(ValidationError, match="list two or more"):
        PerturberConfig(edits={"background": 1}, values={"background": ("grass",)})
    with pytest.raises(ValidationError, match=r"values\.weather: `edits` asks for no such edit"):
        PerturberConfig(edits={"background": 1}, values={"background": GROUNDS, "weather": ("rain", "sun")})
