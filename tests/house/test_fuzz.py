"""The driver of `make fuzz`: a share of the time a target, failures with the seed that repeats them."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from repository import ROOT

from tests.fuzz.__main__ import Outcome, fuzz, targets


def test_a_failure_is_found_and_its_seed_repeats_it_at_the_same_example() -> None:
    seen: list[int] = []

    @given(number=st.integers(0, 10**6))
    def never_divides_by_97(number: int) -> None:
        seen.append(number)
        assert number % 97 or not number

    def tried(outcome: Outcome) -> tuple[int, list[int]]:
        found = outcome.num_examples, seen[:]
        seen.clear()
        return found

    first = fuzz(never_divides_by_97, 60, seed=3)
    assert first.seed is not None
    assert "AssertionError" in first.failure
    (number,) = re.findall(r"never_divides_by_97\(\s*number=(\d+)", first.failure)
    assert int(number) % 97 == 0
    seen.clear()
    assert tried(fuzz(never_divides_by_97, 60, first.seed)) == tried(fuzz(never_divides_by_97, 60, first.seed))


def test_a_target_has_its_share_of_the_time_and_other_numbers_in_each_round() -> None:
    seen: list[int] = []

    @settings(max_examples=1)
    @given(number=st.integers())
    def slow(number: int) -> None:
        seen.append(number)
        time.sleep(0.001)

    outcome = fuzz(slow, 1.5, seed=1)
    assert (outcome.seed, outcome.failure) == (None, "")
    assert outcome.num_examples == len(seen)
    assert 1.5 <= outcome.seconds < 30
    assert len(set(seen)) > 150


def test_every_file_has_targets_and_one_that_fails_gives_exit_code_1() -> None:
    files = {path.stem for path in (ROOT / "tests" / "fuzz").glob("fuzz_*.py")}
    assert {name.partition(".")[0] for name, _ in targets("")} == files
    run: Callable[..., subprocess.CompletedProcess[str]] = partial(
        subprocess.run, [sys.executable, "-m", "tests.fuzz"], cwd=ROOT, capture_output=True, text=True
    )
    assert run(env={"FUZZ_ONLY": "of_no_such_name"}).returncode == 1
