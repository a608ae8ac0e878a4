"""The tables of `select`: what thresholds accept of a run, and which checks turn edits down, before and after."""

from collections.abc import Iterator, Sequence

from engine.runfile.verifier import VerifierConfig
from engine.selection.selection import PIXELS_NOT_KEPT, Candidate, Change, VerdictCounts, describe_thresholds
from engine.verdicts.rule import is_early, score_floors

CHECK_WIDTH = 30


def change_lines(changes: Sequence[Change], before: VerifierConfig, after: VerifierConfig) -> Iterator[str]:
    """Yield the thresholds and, for each group of edits, what is accepted and what fails which check."""
    yield from accept_lines(changes, before, after)
    for change in changes:
        yield from _check_lines(change, before, after)


def accept_lines(changes: Sequence[Change], before: VerifierConfig, after: VerifierConfig) -> Iterator[str]:
    """Yield the thresholds, and how much of each group of edits they accept."""
    old, new = describe_thresholds(before), describe_thresholds(after)
    width = max(len(change.name) for change in changes) + 2
    changed = [f"{name} {old[name]} -> {new[name]}" for name in old if old[name] != new[name]]
    same = [f"{name} {value}" for name, value in old.items() if value == new[name]]
    if changed:
        yield f"changed: {', '.join(changed)}"
    if same:
        yield f"{'unchanged' if changed else 'thresholds'}: {', '.join(same)}"
    yield ""
    heads = ("before", "after") if changed else ("now",)
    yield f"{'accepted':<{width}}{'of':>9}" + "".join(f"{head:>19}" for head in heads)
    for change in changes:
        tallies = (change.before, change.after)[: len(heads)]
        yield f"{change.name:<{width}}{change.before.n:>9,}" + "".join(map(_accepted, tallies))


def lost_lines(candidates: Sequence[Candidate], before: VerifierConfig, after: VerifierConfig) -> Iterator[str]:
    """Yield what cannot come back: edits that pass now, but whose pixels were not kept when they were turned down."""
    lost = sum(PIXELS_NOT_KEPT in candidate.verdict_by(after).reasons for candidate in candidates)
    early = sum(is_early(candidate.verdict) for candidate in candidates)
    without = sum(not candidate.has_pixels for candidate in candidates) - early
    if lost:
        yield ""
        yield (
            f"{lost:,} edits pass these thresholds and stay rejected ({PIXELS_NOT_KEPT}): they were turned down once, "
            "and shards.keep_rejected is not `all`, so their pictures are gone. Only `generate` brings them back"
        )
    elif without and before == after:
        yield ""
        yield (
            f"the pixels of {without:,} rejected edits were not kept (shards.keep_rejected): looser thresholds cannot "
            "bring them back"
        )
    if early:
        yield ""
        yield (
            f"{early:,} edits were dropped early, by their previews: they have no pictures and no scores, so they stay "
            "rejected under all thresholds. Only another run without stages.editor.early_rejection brings them back"
        )


def _check_lines(change: Change, before: VerifierConfig, after: VerifierConfig) -> Iterator[str]:
    """Yield the checks that edits of a group fail: how many fail it, and how many fail nothing else."""
    tallies = (change.before,) if before == after else (change.before, change.after)
    heads = ("now",) if before == after else ("before", "after")
    found = {check for tally in tallies for check in tally.fails}
    if not found:
        return
    yield ""
    yield f"{change.name + ' that fail':<{CHECK_WIDTH}}" + "   ".join(f"{head:>8}{'alone':>9}" for head in heads)
    for check in sorted(found, key=lambda name: (-change.before.fails[name], name)):
        cells = [f"{tally.fails[check]:>8,}{tally.fails_alone[check]:>9,}" for tally in tallies]
        yield f"  {_check_name(check, before, after):<{CHECK_WIDTH - 2}}" + "   ".join(cells)


def _check_name(check: str, before: VerifierConfig, after: VerifierConfig) -> str:
    """Return a check with the values that it asks for, `image < 0.5 -> 0.6`."""
    old, new = (score_floors(config, text_changes=True) for config in (before, after))
    if check not in old:
        return "consistency <= 0" if check == "consistency" else check
    change = f" -> {new[check]:g}" if new[check] != old[check] else ""
    return f"{check} < {old[check]:g}{change}"


def _accepted(tally: VerdictCounts) -> str:
    rate = f"({100 * (tally.accept_rate or 0):.1f} %)"
    return f"{tally.accepted:>10,} {rate:>8}"
