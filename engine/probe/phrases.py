"""Phrases "before -> after" of edits, ranked by the lower confidence bound of their flip rate.

A phrase counts once for each source, at its largest accepted severity, and only for sources that are classified
correctly both unedited and as a placebo, so that the generator's own effect is left out. Phrases that differ in case,
spaces or a plural are one; it is shown in its most common spelling.

As in the weakness table the ranking, by Wilson's lower bound, sees the discovery half alone, and the flip rate with its
interval is that of the scoring half. A phrase with 2 flips of 2 has a lower bound of 0.34 and ranks behind one with 30
flips of 40 and 0.60, so that rare phrases are not first by chance.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from engine.probe.pairs import Pairs
from engine.sample import Json
from engine.statistics import wilson_interval

# Language models produce any number of phrases; a reader looks at the first ones.
MAX_PHRASES = 200


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """One phrase: numbers of flipped sources and of sources that could flip, in total and in the discovery half."""

    kind: str
    before: str
    after: str
    flips: int
    occurrences: int
    discovery_flips: int
    discovery_occurrences: int
    confidence: float

    def to_json(self) -> dict[str, Json]:
        """Return one flat object; flip_rate is of the scoring half, null where the phrase does not occur in it."""
        flips, n = self.flips - self.discovery_flips, self.occurrences - self.discovery_occurrences
        low, high = wilson_interval(flips, n, self.confidence)
        names = ("kind", "before", "after", "flips", "occurrences")
        return {name: getattr(self, name) for name in names} | {
            "discovery_flip_rate_low": self.rank,
            "n_sources": n,
            "flip_rate": flips / n if n else None,
            "flip_rate_low": low if n else None,
            "flip_rate_high": high if n else None,
        }

    @property
    def rank(self) -> float:
        """Return the lower bound of the flip rate in the discovery half, 0 where the phrase does not occur in it."""
        return wilson_interval(self.discovery_flips, self.discovery_occurrences, self.confidence)[0]


def rank_phrases(pairs: Pairs, confidence: float = 0.95) -> list[Phrase]:
    """Return every phrase that could have flipped a source, ranked."""
    strongest: dict[tuple[str, str, str], dict[int, int]] = defaultdict(dict)
    spelled: dict[tuple[str, str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for row, words in enumerate(zip(pairs.before, (pairs.afters[after] for after in pairs.after), strict=True)):
        phrase = pairs.kinds[pairs.kind[row]], plain_phrase(words[0]), plain_phrase(words[1])
        spelled[phrase][words] += 1
        if not (pairs.right_source[row] and pairs.right_unedited[row]):
            continue
        source = int(pairs.source[row])
        known = strongest[phrase].get(source)
        if known is None or pairs.severity[row] > pairs.severity[known]:
            strongest[phrase][source] = row
    phrases = []
    for phrase, rows in strongest.items():
        before, after = spelled[phrase].most_common(1)[0][0]
        discovery = [row for row in rows.values() if pairs.in_discovery[row]]
        flips, discovery_flips = (sum(not pairs.right_edit[row] for row in some) for some in (rows.values(), discovery))
        phrases.append(
            Phrase(
                kind=phrase[0],
                before=before,
                after=after,
                flips=flips,
                occurrences=len(rows),
                discovery_flips=discovery_flips,
                discovery_occurrences=len(discovery),
                confidence=confidence,
            )
        )
    return sorted(phrases, key=lambda phrase: (-phrase.rank, -phrase.discovery_occurrences, str(phrase)))


def phrases_json(phrases: Sequence[Phrase]) -> dict[str, Json]:
    """Return the first phrases of the ranking, and the number of all, as plain JSON."""
    return {
        "num_phrases": len(phrases),
        "phrases": [phrase.to_json() for phrase in phrases[:MAX_PHRASES]],
        "ranked_by": "discovery_flip_rate_low",
    }


def plain_phrase(text: str) -> str:
    """Return the normalised phrase: case folded, spaces joined, each word without a simple plural ending."""
    return " ".join(_singular(word) for word in text.casefold().split())


def _singular(word: str) -> str:
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes")) else word[:-1]
