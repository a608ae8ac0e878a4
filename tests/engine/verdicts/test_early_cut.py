"""The cut: what its order statistic holds, for independent edits and for those of shared sources, and when none is."""

import math
import random
import statistics
from bisect import bisect_left

import pytest

from engine.runfile.editor import EarlyRejection, EditorConfig, PreviewCheck
from engine.runfile.fields import ModelConfig
from engine.runfile.verifier import VerifierConfig
from engine.statistics import binomial_tail
from engine.verdicts.early_cut import (
    FoundCut,
    Previewed,
    allowed_below,
    effective_number,
    find_cut,
    margin,
    saved_share,
    steps_before,
)

MODEL = ModelConfig(name="zoo/verifier")
VERIFIER = VerifierConfig(
    model=MODEL, min_image=0.5, min_text=-1, min_directional=-1, min_contrast=0, consistency=False
)
EDITOR = EditorConfig(model=MODEL, num_inference_steps=20)
EARLY = EarlyRejection()
NUM_PILOTS = 120


def edit(preview: float, final: float, split_key: str) -> Previewed:
    """An edit with one score that can fail: that of the image, whose floor is 0.5."""
    rest = {"text_source": 1.0, "text_edit": 1.0, "directional": 1.0, "contrast": 1.0}
    return Previewed(
        split_key=split_key,
        preview={"image": preview, **rest},
        final={"image": final, **rest},
        is_accepted=final >= 0.5,
    )


def pilot(rng: random.Random, num_sources: int, per_source: int = 1, shared: float = 0.0) -> list[Previewed]:
    """Edits of which half are accepted; those of a source share a part of how far their preview is off."""
    edits = []
    for source in range(num_sources):
        common = rng.gauss(0, 1)
        for _ in range(per_source):
            error = math.sqrt(shared) * common + math.sqrt(1 - shared) * rng.gauss(0, 1)
            final = rng.random()
            edits.append(edit(final + 0.1 * error, final, str(source)))
    return edits


@pytest.fixture(scope="module")
def previews() -> list[float]:
    """The scores of the previews of a large run's accepted edits, sorted."""
    return sorted(one.preview["image"] for one in pilot(random.Random(5), 40_000) if one.is_accepted)


def lost(found: FoundCut, previews: list[float]) -> float:
    """The share of the accepted edits of a large run that a cut drops."""
    if found.least is None:
        return 0.0
    image = found.checks["image"]
    return bisect_left(previews, image.floor + found.least * image.spread) / len(previews)


def test_149_edits_are_the_fewest_of_which_the_first_may_be_the_cut() -> None:
    assert [allowed_below(count, 0.02) for count in (0, 148, 149, 400)] == [0, 0, 1, 4]
    assert 1 - 0.98**149 >= 0.95 > 1 - 0.98**148


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_the_order_is_the_largest_that_is_sure(rate: float) -> None:
    for count in range(1, 200, 13):
        order = allowed_below(count, rate)
        assert order == 0 or binomial_tail(order, count, rate) >= 0.95
        assert binomial_tail(order + 1, count, rate) < 0.95


@pytest.mark.parametrize("num_edits", [149, 300, 1000])
def test_no_more_than_the_named_share_is_lost_in_95_of_100_runs(num_edits: int) -> None:
    rng, order = random.Random(num_edits), allowed_below(num_edits, 0.02)
    # Margins of any distribution have uniform ranks, so the cut is the share that it loses.
    shares = [sorted(rng.random() for _ in range(num_edits))[order - 1] for _ in range(2000)]
    held = sum(share <= 0.02 for share in shares) / len(shares)
    assert held >= 0.94
    assert held < 0.995  # nor is it wasteful: the next one would not be sure


@pytest.mark.parametrize(("per_source", "shared"), [(1, 0.0), (4, 0.0), (4, 0.9)])
def test_a_cut_holds_for_edits_that_share_their_sources_too(
    per_source: int, shared: float, previews: list[float]
) -> None:
    rng = random.Random(3)
    cuts = [
        find_cut(pilot(rng, 640 // per_source, per_source, shared), EARLY, EDITOR, VERIFIER) for _ in range(NUM_PILOTS)
    ]
    assert sum(lost(found, previews) <= 0.02 for found in cuts) / NUM_PILOTS >= 0.93
    # It is of use, too: a share of 0.01 or so is what a sure cut of 320 accepted edits loses.
    assert shared or statistics.mean(lost(found, previews) for found in cuts) > 0.005


def test_edits_of_one_source_that_say_the_same_count_once() -> None:
    rng = random.Random(1)
    independent = [(rng.random(), str(index // 4)) for index in range(400)]
    assert 300 < effective_number(independent) <= 400
    same = [(value, str(source)) for source in range(100) for value in [rng.random()] for _ in range(4)]
    assert effective_number(same) == pytest.approx(100, rel=0.05)
    assert effective_number([(rng.random(), str(index)) for index in range(50)]) == 50
    assert effective_number([]) == 0


def test_a_pilot_that_is_too_small_cuts_nothing_and_says_what_it_takes() -> None:
    found = find_cut(pilot(random.Random(0), 200), EARLY, EDITOR, VERIFIER)
    assert found.least is None
    assert found.why is not None
    assert "is sure from 149 on: raise pilot_shards" in found.why
    assert (found.num_dropped, found.num_lost) == (0, 0)
    assert find_cut([], EARLY, EDITOR, VERIFIER).least is None


def test_a_cut_that_saves_less_than_its_previews_cost_is_none() -> None:
    # All are accepted but for one in ten, so there is little to drop.
    edits = [edit(0.9 if index % 10 else 0.1, 0.9 if index % 10 else 0.1, str(index)) for index in range(400)]
    found = find_cut(edits, EARLY, EDITOR, VERIFIER)
    assert found.least is None
    assert found.why == "of 400 edits it would be 40, which saves less than the previews cost"
    assert find_cut(edits, EarlyRejection(ahead=0), EDITOR, VERIFIER).num_dropped == 40


def test_what_is_saved_counts_the_steps_that_previews_take() -> None:
    assert saved_share(EDITOR, EarlyRejection(after=0.1, ahead=2), 0.7) == pytest.approx(0.7 * 0.9 - 0.1 - 0.05)
    img2img = EDITOR.model_copy(update={"method": "img2img", "strength": 0.5})
    assert saved_share(img2img, EarlyRejection(after=0.1, ahead=2), 0.7) == pytest.approx(0.7 * 0.9 - 0.2 - 0.05)


@pytest.mark.parametrize(("num_steps", "before"), [(4, 1), (20, 1), (30, 1), (39, 1), (40, 2), (100, 5)])
def test_a_preview_comes_as_early_as_its_share_of_the_steps_allows(num_steps: int, before: int) -> None:
    assert steps_before(EarlyRejection(after=0.05), num_steps) == before


def test_the_cut_depends_on_the_edits_and_not_on_their_order() -> None:
    edits = pilot(random.Random(2), 600, 2, 0.4)
    shuffled = random.Random(9).sample(edits, len(edits))
    assert find_cut(edits, EARLY, EDITOR, VERIFIER) == find_cut(shuffled, EARLY, EDITOR, VERIFIER)


def test_a_margin_is_of_the_check_that_is_nearest_to_failing() -> None:
    checks = {"image": PreviewCheck(floor=0.5, spread=0.1), "directional": PreviewCheck(floor=0.2, spread=0.2)}
    assert margin({"image": 0.8, "directional": 0.3}, checks) == pytest.approx(0.5)
    assert margin({"image": 0.4, "directional": 0.9}, checks) == pytest.approx(-1.0)
    assert margin({"image": 0.8}, checks) == pytest.approx(3.0)
    assert margin({"image": 0.8, "directional": math.nan}, checks) == -math.inf


def test_consistency_is_a_check_where_the_verifier_asks_for_it() -> None:
    edits = pilot(random.Random(0), 10)
    strict = VERIFIER.model_copy(update={"consistency": True})
    assert find_cut(edits, EARLY, EDITOR, strict).checks["consistency"].floor == 0.0
    assert "consistency" not in find_cut(edits, EARLY, EDITOR, VERIFIER).checks
