"""The end of a run whose language model gives no edit that can be used."""

from collections import Counter
from collections.abc import Iterator

from cluster.dataflow.shard_row import ShardRow
from engine.errors import RunError
from engine.run.commit import is_candidate
from engine.run.directory import DONE
from engine.shards.marker import Counts, Marker
from engine.storage.storage import Storage

# With fewer edits asked for, none may be valid by chance.
MIN_ASKED = 8
MAX_SHOWN = 400  # characters of the first refusal, which ends in the reply


def check_replies(name: str, row: ShardRow, storage: Storage) -> None:
    """Raise RunError where perturber `name` gave no edit in this shard, nor in any shard of the run that is done.

    The shard is then not committed: once the cause is gone the same command makes it.
    """
    refused = [rejection for rejection in row.rejections if is_candidate(rejection)]
    # An edit that another stage gave up was a valid reply.
    if {each.stage for each in refused} != {name} or any(each.role == "counterfactual" for each in row.samples):
        return
    num_asked = len(refused)
    for counts in _done(storage):
        if counts.candidates > counts.quarantined_candidates:
            return
        num_asked += counts.quarantined_candidates
    if num_asked < MIN_ASKED:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(r.reason for r in refused).most_common())
    seen = " ".join(refused[0].detail.split())
    raise RunError(
        f"none of the {num_asked} edits asked for so far can be used ({reasons}), such as: {seen[:MAX_SHOWN]}"
        f"{'...' if len(seen) > MAX_SHOWN else ''} -- name another model in stages.{name}, or correct how it is asked "
        "(chat template, server.extra, max_new_tokens, class_words). The shard is not kept: the same command makes it"
    )


def _done(storage: Storage) -> Iterator[Counts]:
    for name in storage.list(DONE, ".json"):
        yield Marker.from_json(storage.read(f"{DONE}/{name}"), name).counts
