"""The gate: which checkpoint of an arm is kept, and whether the reinforced classifier ships. Validation data only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.runfile.arms import ArmConfig
from engine.runfile.reinforce import ReinforceConfig
from engine.sample import Json
from engine.statistics import sign_test

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Score:
    """Which validation images a classifier gets right: real ones, and edits of validation sources.

    "1" is right, "0" wrong, "-" an image that cannot be read, which does not count. `held_out` are edits whose phrase
    was held out of training; they are not in `edits`, and no checkpoint is chosen by them.
    """

    real: str
    edits: str = ""
    held_out: str = ""

    @property
    def accuracy(self) -> float:
        """Return the share of real validation images that are right."""
        return _share(self.real)

    @property
    def edits_accuracy(self) -> float | None:
        """Return the share of validation edits that are right, None where there are none."""
        return _share(self.edits) if self.edits else None

    @property
    def held_out_accuracy(self) -> float | None:
        """Return the share of validation edits with a held-out phrase that are right, None where there are none."""
        return _share(self.held_out) if self.held_out else None

    def to_json(self) -> dict[str, Json]:
        """Return the accuracies under the names of reinforce.json."""
        every: dict[str, Json] = {
            "validation_accuracy": self.accuracy,
            "validation_edits_accuracy": self.edits_accuracy,
            "validation_held_out_accuracy": self.held_out_accuracy,
        }
        return {name: value for name, value in every.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict on the reinforced classifier, and its reasons."""

    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The selection rule of checkpoints: within a non-inferiority margin on real images, the highest mean accuracy.

    `base` is the score of the base classifier. `real_groups` and `edit_groups` name the split key of each real image
    and of the source of each edit: composites of one garment, photographs of one animal. Images of one group are no
    independent evidence, so every standard error is one over groups.
    """

    base: Score
    config: ReinforceConfig
    real_groups: Sequence[str]
    edit_groups: Sequence[str]

    def rank(self, score: Score, arm: ArmConfig) -> tuple[bool, float]:
        """Return the rank of a checkpoint of an arm, higher is better.

        Within the guard it is the mean of both accuracies; outside, and below all within, the one on real images. An
        upper bound never ships: it has no guard, and edits alone rank it where there are any.
        """
        edits = score.edits_accuracy
        if arm.is_bound:
            return True, score.accuracy if edits is None else edits
        if not self.is_within_guard(score):
            return False, score.accuracy
        return True, score.accuracy if edits is None else (score.accuracy + edits) / 2

    def is_within_guard(self, score: Score) -> bool:
        """Return whether the accuracy lost on real images, plus its standard error, is at most max_accuracy_loss."""
        # One standard error more, as the best of many candidates that just pass is there by luck too (Breiman 1984).
        return sum(self.accuracy_loss(score)) <= self.config.max_accuracy_loss + 1e-9

    def accuracy_loss(self, score: Score) -> tuple[float, float]:
        """Return the accuracy lost on real validation images, and its standard error over groups.

        The error is that of clusters, with their factor for few of them (Liang & Zeger 1986; CR1 in Cameron & Miller
        2015): infinite for one group, which says nothing of another.
        """
        pairs = [
            (group, int(before) - int(after))
            for group, before, after in zip(self.real_groups, self.base.real, score.real, strict=True)
            if "-" not in (before, after)
        ]
        mean = sum(pair for _, pair in pairs) / len(pairs)
        deviations: dict[str, float] = {}
        for group, pair in pairs:
            deviations[group] = deviations.get(group, 0.0) + pair - mean
        count = len(deviations)
        if count == 1:
            return mean, math.inf
        variance = count / (count - 1) * sum(deviation**2 for deviation in deviations.values())
        return mean, math.sqrt(variance) / len(pairs)

    def decide(self, arms: Mapping[str, Score]) -> Decision:
        """Return the verdict on the arm `ships`.

        It ships if it is within the guard, and on the validation edits better than the base classifier, beyond chance,
        and than each arm without edits. On edits with a held-out phrase it must be no worse than the base classifier;
        its accuracy on them is reported in any case.
        """
        reinforced = arms.get(self.config.ships)
        if reinforced is None:
            return Decision(verdict="do not ship", reasons=(f"there is no {self.config.ships} arm",))
        loss, error = self.accuracy_loss(reinforced)
        known = f"standard error {100 * error:.1f}" if math.isfinite(error) else "one split key: no error is known"
        words = (
            f"real validation accuracy {_percent(reinforced.accuracy)}, "
            f"base classifier {_percent(self.base.accuracy)}: "
            f"{'a loss' if loss > 0 else 'a gain'} of {100 * abs(loss):.1f} points ({known}), "
            f"a loss of {100 * self.config.max_accuracy_loss:.1f} with its error is allowed"
        )
        checks = [(self.is_within_guard(reinforced), words), *self._compare_edits(reinforced, arms)]
        held_out = []
        if self.config.held_out_phrases:
            held_out = [_compare_held_out(reinforced, self.base, self._baselines(arms))]
        bad = [sentence for holds, sentence in (*checks, *held_out) if not holds]
        reasons = bad or [sentence for _, sentence in checks]
        reasons += [sentence for holds, sentence in held_out if holds]
        return Decision(verdict="do not ship" if bad else "ship", reasons=tuple(reasons))

    def _compare_edits(self, reinforced: Score, arms: Mapping[str, Score]) -> list[tuple[bool, str]]:
        after, before = reinforced.edits_accuracy, self.base.edits_accuracy or 0.0
        if after is None:
            missing = "no accepted edit of a validation source: nothing shows that it improved"
            return [(False, f"{missing}; raise data.num_validation_sources")]
        up, down = _changed_groups(reinforced.edits, self.base.edits, self.edit_groups)
        p_value = sign_test(up, down)
        words = (
            f"accuracy on validation edits {_percent(after)}, base classifier {_percent(before)} "
            f"({up} split keys better, {down} worse, sign test p = {p_value:.2g})"
        )
        result = [(after > before and p_value < ALPHA, words)]
        for meaning, score in self._baselines(arms):
            if (other := score.edits_accuracy) is not None:
                # A point estimate: the question is which of two fine-tuned models to take, not whether to change.
                words = f"accuracy on validation edits {_percent(after)}, {meaning} {_percent(other)}"
                result.append((after > other, words))
        return result

    def _baselines(self, arms: Mapping[str, Score]) -> list[tuple[str, Score]]:
        """Return the arms without edits that were trained, each by what it trains on, with its score."""
        return [
            (arm.meaning, arms[name])
            for name, arm in self.config.arms.items()
            if arm.is_baseline and name != self.config.ships and name in arms
        ]


def _compare_held_out(reinforced: Score, base: Score, baselines: Sequence[tuple[str, Score]]) -> tuple[bool, str]:
    after, before = reinforced.held_out_accuracy, base.held_out_accuracy
    if after is None or before is None:
        return True, (
            "no accepted edit of a validation source has a held-out phrase: nothing shows what it does on phrases that "
            "it was not trained on"
        )
    others = [
        f", {meaning} {_percent(other)}"
        for meaning, score in baselines
        if (other := score.held_out_accuracy) is not None
    ]
    return after >= before, (
        f"accuracy on the {len(reinforced.held_out)} validation edits with phrases that were held out of training "
        f"{_percent(after)}, base classifier {_percent(before)}{''.join(others)}"
    )


def _changed_groups(after: str, before: str, groups: Sequence[str]) -> tuple[int, int]:
    """Return how many groups got better and worse: the edits of one are one vote."""
    change = dict.fromkeys(groups, 0)
    for group, new, old in zip(groups, after, before, strict=True):
        change[group] += int(new) - int(old)
    return sum(value > 0 for value in change.values()), sum(value < 0 for value in change.values())


def _share(marks: str) -> float:
    return marks.count("1") / (marks.count("1") + marks.count("0"))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
