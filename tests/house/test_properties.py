"""Whatever comes from outside, a thousand cases each: read, or refused in words, never anything else.

CASES=10000 in the environment tries so many.
"""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from repository import DEMO

from actors.language.answers import BadReply
from actors.perturber.replies import KEYS, Reply, parse_reply
from engine.errors import RunFileError, ShardError
from engine.runfile.load import load_run_file, parse_override
from engine.runfile.problems import describe_problems
from engine.runfile.run import RunFile
from engine.sample import Edit, Sample, Verdict
from engine.shards.tar import decode_shard, encode_shard
from engine.sources.item import make_key

# The same cases in every run: a failure is one of the commit, not of the day.
many = settings(
    max_examples=int(os.environ.get("CASES", "1000")),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
# Every character, halves of surrogate pairs too.
ANY_TEXT = st.text(st.characters(), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)

CAPTION = "a photo of a red shoe on grass"
GOOD = {
    "before": "grass",
    "after": "snow",
    "caption": "a photo of a red shoe on snow",
    "instruction": "put it on snow",
}


@st.composite
def replies(draw: st.DrawFn) -> str:
    """Draw what a language model may say: a good reply, damaged; one with other values; or anything."""
    match draw(st.integers(0, 3)):
        case 0:
            return draw(st.text(st.characters(), max_size=60))
        case 1:
            return json.dumps(GOOD | draw(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3)))
        case 2:
            phrase = draw(st.text(min_size=1, max_size=8))
            return json.dumps(GOOD | {"after": phrase, "caption": f"a photo of a red shoe on {phrase}"})
        case _:
            text = json.dumps(GOOD)
            start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
            return text[:start] + draw(ANY_TEXT) + text[end:]


@many
@given(text=replies())
def test_a_reply_is_an_edit_that_can_be_stored_or_refused_with_a_reason(text: str) -> None:
    found = parse_reply(text, caption=CAPTION, words=["shoe"], kind="background")
    if isinstance(found, BadReply):
        assert re.fullmatch(r"(reply|edit)_[a-z_]+", found.reason)
        assert found.detail
    else:
        assert isinstance(found, Reply)
        assert all(value == " ".join(value.split()) != "" for value in asdict(found).values())
        json.dumps(asdict(found), ensure_ascii=False).encode()
        assert found.before.casefold() != found.after.casefold()
        assert "shoe" in found.caption.casefold()


FINITE = st.floats(allow_nan=True, allow_infinity=False)
TEXT = st.text(max_size=12)
PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789"
KEY = st.builds(str.__add__, st.sampled_from(PLAIN), st.text(f"{PLAIN}-", max_size=20))
EDITS = st.builds(
    Edit,
    kind=st.sampled_from(["background", "colour", "weather"]),
    before=TEXT,
    after=TEXT,
    instruction=TEXT,
    caption=TEXT,
    severity=st.floats(0.01, 1),
    strategy=TEXT,
    target=TEXT,
    turn=st.integers(1, 9),
    region=TEXT,
    steered=st.booleans(),
)
REASON = st.text(f"{PLAIN}_", min_size=1, max_size=9)
VERDICTS = st.builds(
    Verdict,
    accepted=st.booleans(),
    reasons=st.lists(REASON, max_size=2).map(tuple),
    notes=st.dictionaries(TEXT, TEXT, max_size=2),
)
SAMPLES = st.builds(
    Sample,
    key=KEY,
    source_key=KEY,
    role=st.sampled_from(["source", "placebo", "counterfactual"]),
    image=st.binary(max_size=20).map(lambda data: b"\xff\xd8\xff" + data),
    label=st.integers(0, 2**31),
    class_name=TEXT,
    split=st.sampled_from(["train", "validation", "test"]),
    caption=TEXT,
    edit=st.none() | EDITS,
    target=st.dictionaries(TEXT, st.floats(0, 1), max_size=2),
    attributes=st.dictionaries(TEXT, TEXT, max_size=2),
    scores=st.dictionaries(TEXT, FINITE, max_size=2),
    verdict=st.none() | VERDICTS,
    provenance=st.dictionaries(TEXT, st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT, max_size=2),
)


def without_blanks(sample: Sample) -> Sample:
    """Return the sample as it comes back but for what stages noted: undefined scores and empty texts are left out."""

    def filled(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in mapping.items() if value}

    verdict = sample.verdict and replace(sample.verdict, notes=filled(sample.verdict.notes))
    return replace(
        sample,
        scores={name: value for name, value in sample.scores.items() if not math.isnan(value)},
        attributes=filled(sample.attributes),
        target=filled(sample.target),
        verdict=verdict,
        provenance={},
    )


@many
@given(samples=st.lists(SAMPLES, min_size=1, max_size=2, unique_by=lambda sample: sample.key))
def test_what_a_shard_holds_is_read_back_as_it_was(samples: list[Sample]) -> None:
    data = b"".join(encode_shard(samples))
    found = decode_shard(data)
    assert [replace(sample, provenance={}) for sample in found] == list(map(without_blanks, samples))
    assert b"".join(encode_shard(found)) == data


TAR = b"".join(
    encode_shard(
        Sample(key=key, source_key=key, role="source", image=b"\xff\xd8\xff", label=0, class_name="a", split="train")
        for key in ("one", "two")
    )
)


@many
@given(start=st.integers(0, len(TAR)), end=st.integers(0, len(TAR)), data=st.binary(max_size=9))
def test_a_damaged_shard_is_refused_or_read_never_anything_else(start: int, end: int, data: bytes) -> None:
    damaged = TAR[:start] + data + TAR[start + (end % 9) :]
    said = refusal(lambda: decode_shard(damaged, "a.tar"), ShardError)
    assert not said or said.startswith("a.tar")


WORD = st.text(f"{PLAIN}ABCéß_", min_size=1, max_size=9)
PATHS = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=60) | st.builds(
    "{}/{}.jpg".format, WORD, WORD
)


@many
@given(
    paths=st.lists(
        PATHS.map(lambda text: text.encode("utf-8", "replace").decode()), min_size=2, max_size=2, unique=True
    )
)
def test_keys_are_plain_names_and_differ_where_paths_do(paths: list[str]) -> None:
    one, two = map(make_key, paths)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", one)
    assert one != two


RUN: dict[str, Any] = load_run_file(DEMO).model_dump(mode="json")
PLACES = [
    (section, name) for section, fields in RUN.items() if isinstance(fields, dict) for name in fields
] + [(section,) for section in RUN]  # fmt: skip


@many
@given(place=st.sampled_from(PLACES), value=VALUES, key=st.none() | TEXT)
def test_a_run_file_is_valid_or_each_problem_is_told(place: tuple[str, ...], value: object, key: str | None) -> None:
    tree: dict[str, Any] = {**RUN, place[0]: dict(RUN[place[0]]) if isinstance(RUN[place[0]], dict) else RUN[place[0]]}
    here = tree[place[0]] if len(place) == 2 else tree
    here[place[-1] if key is None else key] = value
    try:
        run = RunFile.model_validate(tree)
    except ValidationError as error:
        lines = describe_problems(error, tree, "run.yaml", [])
        assert lines
        assert all(line.startswith("run.yaml: ") for line in lines)
    else:
        assert RunFile.model_validate(run.model_dump(mode="json")) == run


@many
@given(value=st.text(st.characters(), max_size=20) | st.text("[]{}&*!:-?|>'\"%@` \n#,0123456789eE.~<", max_size=20))
def test_an_override_is_yaml_or_refused(value: str) -> None:
    said = refusal(lambda: parse_override(f"a.b={value}"), RunFileError)
    assert not said or said.startswith("--set a.b=")


def refusal(call: Callable[[], object], kind: type[Exception]) -> str:
    """Return what an error of one kind says, nothing where there is none."""
    try:
        call()
    except kind as error:
        return str(error)
    return ""
