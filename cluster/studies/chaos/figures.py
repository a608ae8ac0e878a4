"""The figures of a study: samples lost, doubled or changed by each fault, and the cost of the faults."""

from collections import Counter
from collections.abc import Iterator, Sequence

from cluster.studies.chaos.faults import FAULTS
from cluster.studies.chaos.trial import Trial
from engine.figures.figures import Figure


def chaos_figures(trials: Sequence[Trial], baseline_s: float) -> Iterator[Figure]:
    """Yield the figures of each fault that was injected; `baseline_s` is the time of the run without faults.

    `goodput` is the time of as many baseline runs divided by the time that the runs took. `shards_in_work` is the mean
    number of shards that a stage had begun and not finished at a fault: an upper bound of the repeated work.
    """
    for fault in FAULTS:
        chosen = [trial for trial in trials if trial.fault == fault]
        if chosen:
            yield from _of(fault, chosen, baseline_s)


def _of(fault: str, trials: Sequence[Trial], baseline_s: float) -> Iterator[Figure]:
    kills, counts = Counter[str](), Counter[str]()
    for trial in trials:
        kills.update(trial.kills)
        counts.update(trial.counts)
    n = kills.total()
    yield Figure(name=f"{fault}.strikes", value=n, unit=f"in {len(trials)} runs", n=n)
    if len(kills) > 1:
        for what, count in sorted(kills.items()):
            yield Figure(name=f"{fault}.strikes.{what.replace(' ', '_')}", value=count, unit="", n=n)
    yield _none(f"{fault}.lost", counts["lost"], "samples", counts["samples"])
    yield _none(f"{fault}.duplicated", counts["duplicated"], "samples", counts["samples"])
    yield _none(f"{fault}.different", counts["different"], "files")
    yield _none(f"{fault}.left_over", counts["leftover"], "files")
    yield _none(f"{fault}.drivers_that_gave_up", counts["failures"], "")
    if fault == "driver":
        yield Figure(name="driver.struck_a_half_written_file", value=counts["torn"], unit="", n=n)
        yield Figure(name="driver.struck_before_the_marker", value=counts["unmarked"], unit="", n=n)
        yield _none("driver.processes_left", counts["orphans"], "")
    if added := counts["nodes_added"]:
        used = counts["nodes_used"] / added
        yield Figure(name=f"{fault}.new_nodes_used", value=used, target=1, better="higher", n=added)
    yield Figure(name=f"{fault}.shards_in_work", value=counts["in_work"] / n, unit="a strike", n=n)
    yield Figure(name=f"{fault}.goodput", value=len(trials) * baseline_s / sum(trial.seconds for trial in trials))


def _none(name: str, value: float, unit: str, n: int | None = None) -> Figure:
    return Figure(name=name, value=value, target=0, better="lower", unit=unit, n=n)
