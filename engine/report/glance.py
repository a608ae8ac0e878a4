"""A look into a few finished shards, for `counterforge status`: accept rates by kind of edit, captions and sizes."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import EngineError
from engine.report.domain import Domain, domain_of, sizes_of
from engine.report.summary import accept_rates
from engine.report.views.advice import MIN_ACCEPTED_SHARE
from engine.run.directory import RunDirectory
from engine.sample import Sample
from engine.shards.rows import join_candidates
from engine.wording import count, interval, percent

# Their rows are read, some ten KB a shard; images of the first alone, where it is on this machine.
MAX_SHARDS = 8


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What was seen in `num_shards` shards: shares of accepted edits by kind, captions and sizes."""

    num_shards: int
    by_kind: Sequence[dict[str, Any]]
    domain: Domain

    def lines(self) -> Iterator[str]:
        """Yield the lines that show it, warnings last."""
        yield f"in {self.num_shards} of the shards:"
        for kind in self.by_kind:
            yield f"  accepted: {kind['name']} {percent(kind['value'])} ({interval(kind)}) of {count(kind['n'])}"
        if sentence := self.domain.sentence():
            yield f"  {sentence}"
        yield from (f"  warning: {warning}" for warning in self.warnings())

    def warnings(self) -> list[str]:
        """Return what is wrong with the edits, as far as these shards show."""
        few = [str(kind["name"]) for kind in self.by_kind if kind["high"] < MIN_ACCEPTED_SHARE]
        least = percent(MIN_ACCEPTED_SHARE, 0)
        rare = [f"Hardly any edit of {' or '.join(few)} was accepted. (Warned below {least}.)"] if few else []
        return [*self.domain.warnings(), *rare]


def look_into(rundir: RunDirectory) -> Glance | None:
    """Return what a few shards, spread over those that are done, hold; None where none can be read."""
    done = rundir.done()
    if not done:
        return None
    some = [done[place * len(done) // MAX_SHARDS] for place in range(MAX_SHARDS)] if len(done) > MAX_SHARDS else done
    with suppress(EngineError):  # a shard that is made again just now, or damaged, which `verify` says
        candidates = join_candidates([rundir.read_rows(index) for index in some])
        samples = _samples(rundir, some[0]) if rundir.storage.is_local else ()
        return Glance(
            num_shards=len(some),
            by_kind=accept_rates(candidates)["by_kind"],
            domain=domain_of(candidates, sizes_of(samples), rundir.run()),
        )
    return None


def _samples(rundir: RunDirectory, index: int) -> Iterator[Sample]:
    for entry in rundir.walk_shard(index):
        yield replace(entry.sample(), image=entry.image())
