"""`make fuzz`: try random inputs against a second reader until the time is over, each target for an equal share.

FUZZ_SECONDS (600) is the time, FUZZ_ONLY a part of the names of the targets, FUZZ_SEED the seed of the first round.
"""

import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, is_hypothesis_test, settings
from hypothesis.errors import UnsatisfiedAssumption

# Each round has its own seed; hypothesis looks for what is rare when a round goes on.
ROUND_EXAMPLES = 200


class TimeIsOver(BaseException):
    """The end of a target's share, within a round. Hypothesis takes an Exception for a failure."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a target found: examples tried, and the seed and traceback of a round that failed."""

    num_examples: int
    seconds: float
    seed: int | None = None
    failure: str = ""


def targets(only: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the tests of hypothesis in this folder's files, with their names."""
    for path in sorted(Path(__file__).parent.glob("fuzz_*.py")):
        for function, target in vars(import_module(f"tests.fuzz.{path.stem}")).items():
            if is_hypothesis_test(target) and only in (name := f"{path.stem}.{function}"):
                yield name, target


def fuzz(target: Callable[..., Any], seconds: float, seed: int) -> Outcome:
    """Run a test of hypothesis for so long, in rounds with the seeds `seed`, `seed` + 1, ..., or until it fails."""
    start, count, has_failed, is_over = time.monotonic(), 0, False, False
    inner = target.hypothesis.inner_test  # type: ignore[attr-defined]

    @wraps(inner)
    def counted(*args: object, **kwargs: object) -> object:
        nonlocal count, has_failed, is_over
        # A round that has failed goes on until its example is small.
        is_over = count > 0 and not has_failed and time.monotonic() - start > seconds
        if is_over:
            raise TimeIsOver
        count += 1
        try:
            return inner(*args, **kwargs)
        except Exception as error:
            has_failed = has_failed or not isinstance(error, UnsatisfiedAssumption)
            raise

    target.hypothesis.inner_test = counted  # type: ignore[attr-defined]
    # As @settings and @seed do, which refuse a test that has them already.
    target._hypothesis_internal_use_settings = settings(  # type: ignore[attr-defined]
        max_examples=ROUND_EXAMPLES,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    failure = ""
    try:
        while time.monotonic() - start < seconds:
            target._hypothesis_internal_use_seed = seed  # type: ignore[attr-defined]
            target()
            seed += 1
    except TimeIsOver:
        pass
    except Exception:  # noqa: BLE001  # whatever a target raises is its finding
        # Where the time is over, hypothesis may complain about data that were not drawn to the end.
        failure = "" if is_over else traceback.format_exc(limit=-6)
    finally:
        target.hypothesis.inner_test = inner  # type: ignore[attr-defined]
    taken = time.monotonic() - start
    return Outcome(num_examples=count, seconds=taken, seed=seed if failure else None, failure=failure)


def main() -> int:
    """Run the targets and print a line each; return 1 where one failed."""
    chosen = list(targets(os.environ.get("FUZZ_ONLY", "")))
    share = float(os.environ.get("FUZZ_SECONDS", "600")) / max(len(chosen), 1)
    seed = int(os.environ.get("FUZZ_SEED") or secrets.randbelow(10**9))
    failed = 0
    for name, target in chosen:
        outcome = fuzz(target, share, seed)
        rate = outcome.num_examples / max(outcome.seconds, 1e-9)
        print(f"{name:<48} {outcome.num_examples:>8,} examples {rate:>8.0f}/s", end="", flush=True)
        print("" if outcome.seed is None else f"  FAILED: FUZZ_ONLY={name} FUZZ_SEED={outcome.seed} make fuzz")
        print(outcome.failure, end="", flush=True)
        failed += outcome.seed is not None
    if not chosen:
        print("no target has such a name", file=sys.stderr)
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
