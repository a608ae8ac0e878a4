"""Paired comparison of two classifiers on the same images: accuracy difference, interval, McNemar's test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.statistics import Ratio, SourceBootstrap, paired_test


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Accuracy of `arm` minus that of `against` on `n` images: positive means that `arm` is better.

    `set` is test or shifted, `where` is all or conflict. `gained` images are right with `arm` alone, `lost` ones with
    `against` alone. The test is McNemar's; `low` and `high` are of a bootstrap over sources.
    """

    arm: str
    against: str
    set: str
    where: str
    n: int
    gained: int
    lost: int
    difference: float
    low: float
    high: float
    p_value: float


class PairedImages:
    """Compare classifiers on one set of images, resampling whole clusters of one split key.

    `split_keys` has one entry an image; images of one key (a garment, a person) are not independent.
    """

    def __init__(self, split_keys: Sequence[str], *, num_draws: int, confidence: float, seed: int = 0) -> None:
        _, source = np.unique(np.array(split_keys, np.str_), return_inverse=True)
        self._source = source.astype(np.int64)
        num_sources = int(source.max()) + 1 if len(source) else 1
        self._bootstrap = SourceBootstrap(num_sources, num_draws=num_draws, confidence=confidence, seed=seed)

    def compare(
        self,
        names: tuple[str, str],
        right: tuple[Sequence[bool], Sequence[bool]],
        chosen: Sequence[bool],
        *,
        test_set: str,
        where: str,
    ) -> Comparison | None:
        """Return the comparison on the chosen images, None without any; `right` has both names' results by image."""
        kept = np.flatnonzero(np.asarray(chosen, np.bool_))
        if not len(kept):
            return None
        gain = (np.asarray(right[0], np.float64) - np.asarray(right[1], np.float64))[kept]
        source = self._source[kept]
        ratio = Ratio(numerator=gain, denominator=np.ones(len(kept)), prior="difference")
        (intervals,) = self._bootstrap.intervals(source, np.zeros(len(kept), np.int64), 1, [ratio])
        difference = intervals.interval(0)
        return Comparison(
            arm=names[0],
            against=names[1],
            set=test_set,
            where=where,
            n=len(kept),
            gained=int((gain > 0).sum()),
            lost=int((gain < 0).sum()),
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            p_value=paired_test(np.bincount(source, gain).astype(np.float64)),
        )
