"""What a perturber asks for in a round with an allocation, and which reply goes to which request."""

import json
from collections import Counter
from dataclasses import asdict
from itertools import permutations

import pytest

from actors.language.answers import BadReply
from actors.perturber.interviews import Answers, Interview, Request, draw_edits, make_requests
from actors.perturber.replies import Reply
from engine.runfile.fields import ModelConfig
from engine.runfile.perturber import AllocatedPerturberConfig, PerturberConfig, WantedEdit
from engine.sample import Sample

CAPTION = "a photo of a red sneaker on grass"


def source(key: str = "s0") -> Sample:
    return Sample(
        key=key, source_key=key, role="source", image=b"", label=0, class_name="sneaker", split="train",
        caption=CAPTION,
    )  # fmt: skip


def cell(value: str | None, share: float, kind: str = "background", severity: float = 1.0) -> WantedEdit:
    return WantedEdit(kind=kind, value=value, severity=severity, share=share)


def request(number: int, wanted: str | None = None, key: str = "s0") -> Request:
    return Request(
        source=source(key), kind="background", variants=((1.0, ""),), keys=(f"{key}_cf{number:02d}",), wanted=wanted,
        word="sneaker", words=("sneaker",),
    )  # fmt: skip


def reply(after: str) -> Reply:
    return Reply(before="grass", after=after, caption=f"a photo of a red sneaker on {after}", instruction="go")


def allocated(*cells: WantedEdit, **settings: object) -> AllocatedPerturberConfig:
    base = PerturberConfig(model=ModelConfig(name="zoo/perturber"), **settings)
    return AllocatedPerturberConfig.model_validate(
        base.model_dump() | {"allocation": "abc", "wanted": {"sneaker": cells}}
    )


def test_without_an_allocation_the_settings_say_what_is_asked_for() -> None:
    config = PerturberConfig(
        model=ModelConfig(name="zoo/perturber"), edits={"background": 2, "colour": 1}, severities=(0.5, 1.0)
    )
    asked = make_requests(source(), config, seed=0)
    assert [(item.kind, item.keys, item.wanted) for item in asked] == [
        ("background", ("s0_cf00", "s0_cf01"), None),
        ("background", ("s0_cf02", "s0_cf03"), None),
        ("colour", ("s0_cf04", "s0_cf05"), None),
    ]


def test_a_source_spends_its_whole_budget_and_keys_are_counted_through() -> None:
    config = allocated(cell("snow", 0.7), cell(None, 0.3), edits={"background": 2, "colour": 2})
    for number in range(20):
        asked = make_requests(source(f"s{number}"), config, seed=0)
        keys = [key for item in asked for key in item.keys]
        assert keys == [f"s{number}_cf{place:02d}" for place in range(4)]
        assert [item.wanted for item in asked].count("snow") <= 1


def test_edits_are_drawn_by_their_shares() -> None:
    cells = [cell("snow", 0.6), cell("sand", 0.1), cell(None, 0.3, kind="colour")]
    drawn = Counter(edit[:2] for seed in range(2000) for edit in draw_edits(cells, 1, CAPTION, seed))
    assert drawn["background", "snow"] / 2000 == pytest.approx(0.6, abs=0.04)
    assert drawn["colour", None] / 2000 == pytest.approx(0.3, abs=0.04)


def test_the_same_seed_draws_the_same() -> None:
    cells = [cell(value, 0.2) for value in ("snow", "sand", "sky", "wood", None)]
    assert draw_edits(cells, 3, CAPTION, 5) == draw_edits(cells, 3, CAPTION, 5)


def test_a_value_that_the_picture_has_is_not_asked_for() -> None:
    cells = [cell("grass", 0.9), cell(None, 0.1)]
    assert draw_edits(cells, 2, CAPTION, 1) == [("background", None, (1.0,))] * 2


def test_the_severities_of_one_value_are_one_edit() -> None:
    cells = [cell("snow", 0.5, severity=1.0), cell("snow", 0.5, severity=0.5)]
    assert draw_edits(cells, 2, CAPTION, 1) == [("background", "snow", (0.5, 1.0))]


def test_a_wanted_value_is_asked_for_until_it_comes() -> None:
    wants = request(0, "snow")
    answers = Answers([wants])
    answers.add(wants, reply("sand"), "")
    assert answers.open_requests() == [wants]
    answers.add(wants, reply("Snow"), "")
    assert answers.open_requests() == []
    assert answers.settled()[wants.keys] == reply("Snow")


def test_a_value_goes_to_whoever_wants_it() -> None:
    first, second = request(0, "snow"), request(1, "sand")
    answers = Answers([first, second])
    answers.add(first, reply("sand"), "")
    answers.add(second, reply("snow"), "")
    assert answers.settled() == {first.keys: reply("snow"), second.keys: reply("sand")}


def test_another_valid_value_is_taken_when_the_wanted_one_never_comes() -> None:
    first, second = request(0, "snow"), request(1, "sky")
    answers = Answers([first, second])
    for text in ("sand", "sand", "wood"):
        answers.add(first, reply(text), "")
    answers.add(second, BadReply(reason="reply_not_json", detail="no"), "nonsense")
    assert answers.settled() == {first.keys: reply("sand"), second.keys: reply("wood")}


def test_a_request_without_any_reply_left_stays_rejected() -> None:
    first, second = request(0, "snow"), request(1, "sky")
    answers = Answers([first, second])
    answers.add(first, reply("sand"), "")
    answers.add(second, reply("sand"), "")
    answers.add(second, BadReply(reason="reply_not_json", detail="no"), "nonsense")
    settled = answers.settled()
    assert settled[first.keys] == reply("sand")
    assert settled[second.keys] == BadReply(reason="reply_not_json", detail="no; reply: nonsense")


def test_requests_of_other_sources_may_have_the_same_value() -> None:
    first, second = request(0, "snow"), request(0, "snow", key="s1")
    answers = Answers([first, second])
    answers.add(first, reply("snow"), "")
    answers.add(second, reply("snow"), "")
    assert len(answers.settled()) == 2
    assert answers.open_requests() == []


def test_an_interview_ends_alike_whichever_text_comes_first() -> None:
    requests = [request(number) for number in range(3)]
    texts = {0: ["sand", "no"], 1: ["sand", "snow"], 2: ["nonsense", "sand"]}
    found = []
    for order in permutations(requests):
        interview = Interview(requests, num_attempts=2)
        while interview.asked:
            attempt, asked = interview.attempt, interview.asked
            ends = [
                interview.hear(item, json.dumps(asdict(reply(texts[requests.index(item)][attempt]))))
                for item in order
                if item in asked
            ]
            assert ends == [False] * (len(asked) - 1) + [True]
        assert interview.attempt == 2
        found.append(interview.settled())
    assert all(answers == found[0] for answers in found)
    assert [getattr(found[0][item.keys], "after", None) for item in requests] == ["sand", "snow", "nonsense"]
