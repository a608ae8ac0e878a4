"""The gate: which checkpoint of an arm is kept, and whether the reinforced classifier ships. Validation data only."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from engine.runfile.arms import ArmConfig
from engine.runfile.reinforce import ReinforceConfig
from engine.sample import Json
from engine.statistics import sign_test, student_quantile
from engine.training.halves import Half, Halves, split_halves

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

    def of(self, half: Half) -> "Score":
        """Return the score on one half of the validation images, and on all edits with a held-out phrase."""
        edits = "".join(self.edits[place] for place in half.edits) if self.edits else ""
        return Score(real="".join(self.real[place] for place in half.real), edits=edits, held_out=self.held_out)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict on the reinforced classifier, its reasons, and the numbers behind them for reinforce.json."""

    verdict: str
    reasons: tuple[str, ...]
    numbers: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AccuracyLoss:
    """Accuracy lost on real images of one half, its standard error over `num_keys` split keys."""

    loss: float
    error: float
    num_keys: int

    @property
    def bound(self) -> float:
        """Return the upper end of the one-sided 95 % interval: the non-inferiority margin that the sample shows."""
        if not math.isfinite(self.error):
            return math.inf
        return self.loss + student_quantile(1 - ALPHA, self.num_keys - 1) * self.error

    @property
    def words(self) -> str:
        """Return loss and error in points."""
        known = f"standard error {100 * self.error:.1f}" if math.isfinite(self.error) else "one split key: no error"
        return f"{'a loss' if self.loss > 0 else 'a gain'} of {100 * abs(self.loss):.1f} points ({known})"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The selection rule of checkpoints, and the decision on the one that was selected.

    `base` is the score of the base classifier. `real_groups` and `edit_groups` name the split key of each real image
    and of the source of each edit: composites of one garment, photographs of one animal. Images of one group are no
    independent evidence, so every standard error is one over groups. `edit_kinds` are the kinds of those edits.

    Sample splitting: half of the groups choose among the weights, the others decide (engine/training/halves.py). On
    the choosing half the accuracy lost plus one standard error must be at most max_accuracy_loss, as the best of many
    candidates that just pass is there by luck too (Breiman 1984). On the deciding half, where no such luck is left, the
    loss itself must be. Simulated with 794 groups of two images, 11 candidates, 2.5 % of the answers changed and 1.0
    points allowed (tests/engine/training/test_gate_simulated.py), rate of shipping:

        true loss of all candidates, points             0.2    1.0    1.5
        chosen and decided on all images, with error    .99    .59    .09
        deciding half with error as well                .64    .18    .03
        deciding half without error (this rule)         .90    .30    .03
    """

    base: Score
    config: ReinforceConfig
    real_groups: Sequence[str]
    edit_groups: Sequence[str]
    edit_kinds: Sequence[str] = ()

    @cached_property
    def halves(self) -> Halves:
        """Return the halves of the validation images."""
        return split_halves(self.base.real, self.real_groups, self.edit_groups)

    def rank(self, score: Score, arm: ArmConfig) -> tuple[bool, float]:
        """Return the rank of a checkpoint of an arm on the choosing half, higher is better.

        Within the guard it is the mean of both accuracies; outside, and below all within, the one on real images. An
        upper bound never ships: it has no guard, and edits alone rank it where there are any.
        """
        chosen = score.of(self.halves.choosing)
        edits = chosen.edits_accuracy
        if arm.is_bound:
            return True, chosen.accuracy if edits is None else edits
        if not self.is_within_guard(score):
            return False, chosen.accuracy
        return True, chosen.accuracy if edits is None else (chosen.accuracy + edits) / 2

    def is_within_guard(self, score: Score) -> bool:
        """Return whether loss plus standard error on the choosing half is at most max_accuracy_loss."""
        lost = self.accuracy_loss(score, self.halves.choosing)
        return lost.loss + lost.error <= self.config.max_accuracy_loss + 1e-9

    def accuracy_loss(self, score: Score, half: Half) -> AccuracyLoss:
        """Return the accuracy lost on real images of a half, and its standard error over groups.

        The error is that of clusters, with their factor for few of them (Liang & Zeger 1986; CR1 in Cameron & Miller
        2015): infinite for one group, which says nothing of another.
        """
        pairs = [(self.real_groups[place], int(self.base.real[place]) - int(score.real[place])) for place in half.real]
        mean = sum(pair for _, pair in pairs) / len(pairs)
        deviations: dict[str, float] = {}
        for group, pair in pairs:
            deviations[group] = deviations.get(group, 0.0) + pair - mean
        count = len(deviations)
        if count == 1:
            return AccuracyLoss(loss=mean, error=math.inf, num_keys=1)
        variance = count / (count - 1) * sum(deviation**2 for deviation in deviations.values())
        return AccuracyLoss(loss=mean, error=math.sqrt(variance) / len(pairs), num_keys=count)

    def decide(self, arms: Mapping[str, Score], num_candidates: int) -> Decision:
        """Return the verdict on the arm `ships`, whose weights were chosen among `num_candidates` of all arms.

        It ships if its weights were within the guard where they were chosen, and on the deciding half lose at most
        max_accuracy_loss and are on edits better than the base classifier, beyond chance, and than each arm without
        edits, and on no kind of edit clearly worse (Bonferroni over kinds). On edits with a held-out phrase it must be
        no worse than the base classifier; its accuracy on them is reported in any case.
        """
        if self.config.ships not in arms:
            return Decision(verdict="do not ship", reasons=(f"there is no {self.config.ships} arm",))
        deciding = {name: score.of(self.halves.deciding) for name, score in arms.items()}
        base = self.base.of(self.halves.deciding)
        reinforced = deciding[self.config.ships]
        lost = self.accuracy_loss(arms[self.config.ships], self.halves.deciding)
        checks = [
            self._guard(lost, reinforced, base),
            *self._compare_edits(reinforced, base, deciding),
            *self._worse_kinds(reinforced, base),
            self._choice(arms[self.config.ships], num_candidates),
        ]
        held_out = []
        if self.config.held_out_phrases:
            held_out = [_compare_held_out(reinforced, self.base, self._baselines(arms))]
        bad = [sentence for holds, sentence in (*checks, *held_out) if not holds]
        reasons = bad or [sentence for _, sentence in checks]
        reasons += [sentence for holds, sentence in held_out if holds]
        return Decision(
            verdict="do not ship" if bad else "ship",
            reasons=tuple(reasons),
            numbers={
                "num_candidates": num_candidates,
                "apart": self.halves.apart,
                "num_choosing_keys": self.halves.choosing.num_keys,
                "num_deciding_keys": self.halves.deciding.num_keys,
                "accuracy_loss": lost.loss,
                "accuracy_loss_error": lost.error if math.isfinite(lost.error) else None,
                "accuracy_loss_bound": lost.bound if math.isfinite(lost.bound) else None,
            },
        )

    def _guard(self, lost: AccuracyLoss, reinforced: Score, base: Score) -> tuple[bool, str]:
        images, allowed = len(self.halves.deciding.real), self.config.max_accuracy_loss
        shown = f", below {100 * lost.bound:.1f} at one-sided 95 %, the margin that these {images:,} images show"
        return lost.loss <= allowed + 1e-9, (
            f"real validation accuracy {_percent(reinforced.accuracy)}, base classifier {_percent(base.accuracy)}: "
            f"{lost.words}{shown if math.isfinite(lost.bound) else ''}; {100 * allowed:.1f} is allowed"
        )

    def _choice(self, score: Score, num_candidates: int) -> tuple[bool, str]:
        """Return whether the weights were within the guard where they were chosen, and how they were chosen."""
        keys, lost = self.halves.choosing.num_keys, self.accuracy_loss(score, self.halves.choosing)
        rests = f"the verdict rests on the {self.halves.deciding.num_keys:,} others"
        if not self.halves.apart:
            rests = "the verdict rests on the same, too few to keep half of them apart"
        return self.is_within_guard(score), (
            f"weights chosen among {num_candidates:,} candidates on {keys:,} split keys, where they show {lost.words}, "
            f"{100 * self.config.max_accuracy_loss:.1f} with its error is allowed; {rests}"
        )

    def _compare_edits(self, reinforced: Score, base: Score, arms: Mapping[str, Score]) -> list[tuple[bool, str]]:
        after, before = reinforced.edits_accuracy, base.edits_accuracy or 0.0
        if after is None:
            missing = "no accepted edit of a validation source: nothing shows that it improved"
            return [(False, f"{missing}; raise data.num_validation_sources")]
        groups = [self.edit_groups[place] for place in self.halves.deciding.edits]
        up, down = _changed_groups(reinforced.edits, base.edits, groups)
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

    def _worse_kinds(self, reinforced: Score, base: Score) -> Iterator[tuple[bool, str]]:
        """Yield each kind of edit on which it is worse than the base classifier, beyond chance over all kinds."""
        places = self.halves.deciding.edits
        kinds = [self.edit_kinds[place] for place in places] if self.edit_kinds and reinforced.edits else []
        for kind in sorted(set(kinds)):
            marks = [(index, self.edit_groups[places[index]]) for index, own in enumerate(kinds) if own == kind]
            after, before = ("".join(score.edits[index] for index, _ in marks) for score in (reinforced, base))
            up, down = _changed_groups(after, before, [group for _, group in marks])
            p_value = min(1.0, len(set(kinds)) * sign_test(up, down))
            if down > up and p_value < ALPHA:
                yield (
                    False,
                    (
                        f"accuracy on validation edits of {kind} fell from {_percent(_share(before))} to "
                        f"{_percent(_share(after))} ({up} split keys better, {down} worse, p = {p_value:.2g} over all "
                        "kinds): curing one habit made another"
                    ),
                )

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
