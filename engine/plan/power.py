"""What a run can show: the smallest drop that its sources detect, and the accuracy loss that its images rule out."""

import math
from collections.abc import Iterator

from engine.plan.plan import Plan
from engine.plan.splits import MAX_VALIDATION_IMAGES
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.statistics import NORMAL
from engine.wording import percent

# Shares of the pairs whose answer changes by chance, half of them to the worse: a steady and a shaky classifier.
NOISE = (0.1, 0.3)
# Share of the real images whose answer the fine-tuning changes, about that of the demo.
CHANGED = 0.03
CELL_SOURCES = 40
POWER, ALPHA = 0.8, 0.05


def detectable_drop(num_sources: int, noise: float, *, min_drop: float = 0.0, num_tests: int = 1) -> float | None:
    """Return the smallest drop of accuracy that the paired test finds with a power of 80 %, None where it finds none.

    One pair a source; `noise` of the pairs change by chance, half of them each way, and `drop` more to the worse. The
    test is two-sided at 5 % against a drop of at most `min_drop`; with `num_tests` it is at the level that
    Benjamini-Hochberg leaves to the only weak cell of so many. Normal approximation with correction for continuity.
    """
    z_level, z_power = NORMAL.inv_cdf(1 - ALPHA / 2 / num_tests), NORMAL.inv_cdf(POWER)
    for drop in (step / 1000 for step in range(math.ceil(1000 * min_drop) + 1, math.floor(1000 * (1 - noise)) + 1)):
        changed = noise + drop
        under_null, under_drop = changed - min_drop**2 / changed, max(0.0, changed - drop**2)
        needed = (z_level * math.sqrt(under_null) + z_power * math.sqrt(under_drop)) / math.sqrt(num_sources)
        if drop - min_drop >= needed + 1 / num_sources:
            return drop
    return None


def power_lines(run: RunFile, plan: Plan) -> list[str]:
    """Return what the tests of this plan can show, as lines for a person; none without edits of known kinds."""
    counts = plan.counts(edited=True)
    by_class = [sum(found[name] for found in counts.values()) for name in plan.classes]
    kinds = sum(
        sum(config.num_turns(kind) for kind, number in config.edits.items() if number)
        for config in run.stages.values()
        if isinstance(config, PerturberConfig)
    )
    return [*(_drops(run, by_class, kinds) if kinds and sum(by_class) else ()), *_guard(run, plan)]


def _drops(run: RunFile, by_class: list[int], kinds: int) -> Iterator[str]:
    """Yield the smallest detectable drops: over all edits and of a kind, of a kind in a class, of one value."""
    num_tests = kinds * (len(by_class) + 1)
    in_class = sorted(by_class)[len(by_class) // 2]

    def found(num_sources: int, tests: int = 1) -> str:
        drops = [detectable_drop(num_sources, noise, min_drop=run.probe.min_drop, num_tests=tests) for noise in NOISE]
        return " or ".join("none" if drop is None else f"{100 * drop:.0f}" for drop in drops)

    noise = " or ".join(percent(share, 0) for share in NOISE)
    yield (
        f"detects     drops above these points with a power of 80 %, where {noise} of the pairs change by chance and "
        f"every edit is accepted (two-sided 5 %, beyond probe.min_drop of {100 * run.probe.min_drop:g}):"
    )
    yield f"            all edits, or one kind alone: {found(sum(by_class))} on {sum(by_class):,} sources;"
    yield (
        f"            as the only weak cell of {num_tests} (Benjamini-Hochberg): a kind in a class "
        f"{found(in_class, num_tests)} on {in_class:,} sources, one value {found(CELL_SOURCES, num_tests)} on "
        f"{CELL_SOURCES}"
    )


def _guard(run: RunFile, plan: Plan) -> Iterator[str]:
    """Yield the margin of non-inferiority that the validation images allow: half of them decide."""
    num_images = min(sum(plan.counts()["validation"].values()), MAX_VALIDATION_IMAGES)
    if run.probe.model is None or num_images < 2:
        return
    error, allowed = math.sqrt(CHANGED / (num_images / 2)), run.reinforce.max_accuracy_loss
    shown = NORMAL.inv_cdf(1 - ALPHA) * error
    too_small = ", less than that error: only weights that gain pass the choice" if allowed < error else ""
    yield (
        f"guard       half of {num_images:,} validation images choose weights, half decide: where "
        f"{percent(CHANGED, 0)} of the answers change, a loss has a standard error of {100 * error:.1f} points, and "
        f"even without any the margin shown is {100 * shown:.1f} (one-sided 95 %); reinforce.max_accuracy_loss is "
        f"{100 * allowed:g}{too_small}"
    )
