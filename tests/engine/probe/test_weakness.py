"""The weakness table finds what is planted, and nothing where nothing is planted."""

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from engine.errors import LeakError
from engine.probe.pairs import finds_cells, read_pairs
from engine.probe.weakness import Weakness, WeaknessCell
from engine.probe.weakness import weakness as weakness_of_pairs
from engine.runfile.probe import ProbeConfig
from engine.statistics import paired_test

CONFIG = ProbeConfig(callable="tests:nothing", num_bootstraps=400, min_drop=0)
CLASSES = ("boot", "bag", "coat")
BACKGROUNDS = ("grass", "snow", "sand")
COLOURS = ("red", "blue")
MANY = tuple(f"v{number}" for number in range(30))


def test_a_planted_weak_cell_comes_first() -> None:
    def chance(role: str, label: int, after: str | None) -> float:
        return 0.2 if (role, label, after) == ("counterfactual", 1, "snow") else 0.9

    table = weakness(_simulate(chance), CONFIG)
    first = table.cells[0]
    assert (first.class_name, first.kind, first.after) == ("bag", "background", "snow")
    assert first.significant
    assert first.measures["corrected_drop"].low > 0.3
    # Only what holds the planted cell may be significant.
    assert all(cell.after in ("snow", None) and cell.kind == "background" for cell in table.cells if cell.significant)


def test_cells_are_ranked_on_one_half_of_the_sources_and_measured_on_the_other() -> None:
    """Snow breaks every source of the discovery half and none of the scoring half: it comes first, and scores 0."""

    def edit(table: pa.Table, discovery: int, scoring: int) -> pa.Table:
        rows = table.to_pylist()
        for row in rows:
            if row["edit_after"] == "snow":
                wrong = discovery if finds_cells(row["split_key"]) else scoring
                row["prediction"] = (row["label"] + wrong) % len(CLASSES)
        return pa.Table.from_pylist(rows)

    predictions = _simulate(lambda role, label, after: 1.0)
    lucky, unlucky = weakness(edit(predictions, 1, 0), CONFIG), weakness(edit(predictions, 0, 1), CONFIG)
    first = lucky.cells[0]
    assert first.after == "snow"
    assert (first.discovery_drop.value, first.measures["corrected_drop"].value) == (1, 0)
    assert first.n_sources + first.n_discovery_sources == first.n_tested_sources
    # What only the scoring half shows ranks nothing.
    missed = {cell.key: cell.discovery_drop.value for cell in unlucky.cells}
    assert set(missed.values()) == {0}
    assert _cell(unlucky, None, "background", "snow").measures["corrected_drop"].value == 1


def test_sources_of_one_split_key_are_in_one_half_and_are_one_piece_of_evidence() -> None:
    predictions = _simulate(lambda role, label, after: 0.4 if after == "snow" else 0.9)
    rows = predictions.to_pylist()
    grouped = pa.Table.from_pylist([row | {"split_key": f"g{int(row['source_key'][1:]) // 8}"} for row in rows])
    alone, together = weakness(predictions, CONFIG), weakness(grouped, CONFIG)
    pairs = read_pairs(grouped)
    assert pairs.num_clusters == 30
    assert all(len(set(pairs.in_discovery[pairs.cluster == cluster])) == 1 for cluster in range(30))
    snow = [_cell(table, None, "background", "snow") for table in (alone, together)]
    assert snow[0].n_tested_sources == snow[1].n_tested_sources == 240
    assert snow[1].p_value > snow[0].p_value


def test_the_interval_of_the_first_cell_holds_its_truth_as_often_as_it_says() -> None:
    """100 runs of 60 sources, 30 drops between 0 and 0.3, 12 sources each; beside it, what all sources would say."""
    covered, bias, naive_covered, naive_bias = [], [], [], []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        truth = dict(zip(MANY, generator.uniform(0, 0.3, len(MANY)), strict=True))
        table = weakness(_many_values(truth, generator), CONFIG.model_copy(update={"num_bootstraps": 100}))
        values = [cell for cell in table.cells if cell.level == "kind, after"]
        drop, true = values[0].measures["corrected_drop"], truth[str(values[0].after)]
        covered.append(drop.low <= true <= drop.high)
        bias.append(drop.value - true)
        # The detectable drop is 2.8 standard errors, the half width of an interval 1.96 of them.
        naive = max(values, key=lambda cell: cell.tested_drop - 0.7 * cell.minimum_detectable_drop)
        excess = naive.tested_drop - truth[str(naive.after)]
        naive_covered.append(abs(excess) <= 0.7 * naive.minimum_detectable_drop)
        naive_bias.append(excess)
    # 100 runs: 0.95 is seen as 0.89 or less once in 90 times. Of a drop on 6 sources the standard error is 0.2.
    assert np.mean(covered) >= 0.9
    assert abs(np.mean(bias)) < 0.05
    assert np.mean(naive_covered) < 0.85
    assert np.mean(naive_bias) > 0.1


def test_the_false_discovery_rate_is_kept_beside_true_weaknesses() -> None:
    """A third of the values is weak in truth: of the cells called significant at most 5 % are of the others."""
    wrong, found = [], []
    for seed in range(40):
        truth = {value: 0.6 * (number % 3 == 0) for number, value in enumerate(MANY)}
        predictions = _many_values(truth, np.random.default_rng(seed))
        table = weakness(predictions, CONFIG.model_copy(update={"num_bootstraps": 100}))
        significant = [cell for cell in table.cells if cell.significant and cell.level == "kind, after"]
        false = sum(truth[str(cell.after)] == 0 for cell in significant)
        wrong.append(false / max(1, len(significant)))
        found.append((len(significant) - false) / 10)
    assert np.mean(wrong) <= 0.05
    assert np.mean(found) > 0.25


def test_a_clean_classifier_gives_no_significant_cell() -> None:
    """At 5 % false discoveries about one clean run in twenty may show a cell; more would be a broken test."""
    config = CONFIG.model_copy(update={"num_bootstraps": 100})
    tables = [weakness(_simulate(lambda *_: 0.85, seed=seed), config) for seed in range(30)]
    assert sum(any(cell.significant for cell in table.cells) for table in tables) <= 3


def test_what_the_generator_breaks_is_no_weakness() -> None:
    """Source right, placebo and edits equally broken: a large raw drop, a corrected effect around 0."""
    table = weakness(_simulate(lambda role, *_: 0.95 if role == "source" else 0.5), CONFIG)
    assert table.overall is not None
    measures = table.overall.measures
    assert measures["accuracy_drop"].low > 0.35
    assert measures["artefact_drop"].low > 0.35
    assert measures["corrected_drop"].low < 0 < measures["corrected_drop"].high
    assert measures["corrected_effect"].low < 0 < measures["corrected_effect"].high
    assert not any(cell.significant for cell in table.cells)


def test_a_cell_measures_what_metrics_say() -> None:
    """Two sources by hand: a is right, its placebo right, its edits wrong and right; b is wrong, its edit right."""
    rows = [
        _row("a", "a", "source", 0, 0, 0.9),
        _row("a-0", "a", "placebo", 0, 0, 0.8),
        _row("a-1", "a", "counterfactual", 0, 1, 0.3, "snow"),
        _row("a-2", "a", "counterfactual", 0, 0, 0.6, "snow"),
        _row("b", "b", "source", 0, 2, 0.2),
        _row("b-1", "b", "counterfactual", 0, 0, 0.7, "snow"),
        _row("b-2", "b", "counterfactual", 0, 1, 0.1, "snow", accepted=False),
        _row("c", "c", "source", 0, 0, 0.9),
    ]
    table = weakness(pa.Table.from_pylist(rows), CONFIG.model_copy(update={"min_sources": 2}))
    (cell,) = table.by_kind
    value = {name: interval.value for name, interval in cell.measures.items()}
    assert (cell.n_sources, cell.n_edits, cell.n_placebo_sources) == (2, 3, 1)
    assert value["accuracy_source"] == pytest.approx(2 / 3)
    assert value["accuracy_edit"] == pytest.approx(2 / 3)
    assert value["accuracy_drop"] == pytest.approx(0)
    assert value["accuracy_drop_macro"] == pytest.approx((0.5 - 1) / 2)
    assert value["flip_rate"] == pytest.approx(1 / 2)
    assert value["repair_rate"] == pytest.approx(1)
    assert value["change_rate"] == pytest.approx(2 / 3)
    assert value["sensitivity"] == pytest.approx((0.6 + 0.3 - 0.5) / 3)
    assert value["absolute_sensitivity"] == pytest.approx((0.6 + 0.3 + 0.5) / 3)
    assert value["corrected_drop"] == pytest.approx(0.5)
    assert value["corrected_effect"] == pytest.approx((0.5 + 0.2) / 2)
    assert value["artefact_drop"] == pytest.approx(0)
    assert value["artefact_effect"] == pytest.approx(0.1)


def test_the_p_value_is_mcnemars_where_a_source_has_one_edit() -> None:
    predictions = _simulate(lambda role, label, after: 0.6 if after == "snow" else 0.9)
    cell = _cell(weakness(predictions, CONFIG), None, "background", "snow")
    rows = predictions.to_pylist()
    right = {(row["source_key"], row["role"], row["edit_after"]): row["prediction"] == row["label"] for row in rows}
    keys = {row["source_key"] for row in rows}
    pairs = [(right[key, "placebo", "same"], right[key, "counterfactual", "snow"]) for key in keys]
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    assert cell.p_value == pytest.approx(stats.binomtest(lost, lost + won).pvalue)


def test_a_drop_that_an_edit_costs_anyone_is_no_weakness() -> None:
    """960 sources lose 3.5 points by every edit: clearly not nothing, and clearly not more than 5."""
    predictions = _simulate(lambda role, *_: 0.865 if role == "counterfactual" else 0.9, num_sources=960)
    strict, lenient = (
        weakness(predictions, CONFIG.model_copy(update={"min_drop": least, "num_bootstraps": 100}))
        for least in (0, 0.05)
    )
    assert any(cell.significant for cell in strict.by_kind)
    assert not any(cell.significant for cell in (*lenient.by_kind, *lenient.cells))
    assert lenient.to_json()["min_drop"] == 0.05


def test_a_drop_beyond_what_is_allowed_is_tested_on_the_changes() -> None:
    predictions = _simulate(lambda role, label, after: 0.6 if after == "snow" else 0.9)
    allowing = CONFIG.model_copy(update={"min_drop": 0.1})
    cell = _cell(weakness(predictions, allowing), None, "background", "snow")
    net = np.array([-1.0] * 40 + [1.0] * 10 + [0.0] * 190)
    # Of 50 changes 24 more are lost than won where 240 sources lose a tenth.
    expected = stats.binomtest(40, 50, (1 + 24 / 50) / 2, alternative="greater").pvalue
    assert paired_test(net, np.full(240, 0.1)) == pytest.approx(2 * expected)
    assert cell.significant
    assert cell.p_value > _cell(weakness(predictions, CONFIG), None, "background", "snow").p_value


def test_a_minimum_effect_is_found_no_more_often_than_it_should_be() -> None:
    """Sources with two edits that cost exactly what is allowed: at 5 % about one run in twenty says more, or fewer."""
    found = []
    for seed in range(400):
        generator = np.random.default_rng(seed)
        placebo, edits = generator.random((100, 1)) < 0.9, generator.random((100, 2)) < 0.8
        net = (edits.astype(float) - placebo).sum(1)
        found.append(paired_test(net, np.full(100, 0.2)) < 0.05)
    assert np.mean(found) <= 0.05


def test_without_placebos_the_raw_drop_ranks() -> None:
    predictions = _simulate(lambda role, label, after: 0.3 if after == "sand" else 0.9)
    kept = [row for row in predictions.to_pylist() if row["role"] != "placebo"]
    table = weakness(pa.Table.from_pylist(kept), CONFIG)
    assert not table.has_placebos
    assert (table.cells[0].kind, table.cells[0].after) == ("background", "sand")
    assert table.to_json()["drop"] == "accuracy_drop"
    assert table.cells[0].to_json()["corrected_drop"] is None


def test_cells_of_few_sources_are_left_out_and_counted() -> None:
    table = weakness(_simulate(lambda *_: 0.9, num_sources=24), CONFIG)
    assert all(cell.n_tested_sources >= 10 for cell in table.cells)
    # 3 classes x 5 values and 3 x 2 kinds of 8 sources each; what stays are the 5 values and 2 kinds over all classes.
    assert table.skipped_cells == 21
    assert (len(table.cells), len(table.by_kind)) == (5, 2)


def test_a_prediction_of_the_test_split_is_refused() -> None:
    rows = [_row("a", "a", "source", 0, 0, 0.9), _row("b", "b", "source", 0, 0, 0.9, split="test")]
    with pytest.raises(LeakError, match="'b' is of the test split"):
        weakness(pa.Table.from_pylist(rows), CONFIG)


def test_a_run_without_accepted_edits_gives_an_empty_table() -> None:
    table = weakness(pa.Table.from_pylist([_row("a", "a", "source", 0, 0, 0.9)]), CONFIG)
    assert table.overall is None
    assert table.cells == ()


def test_the_table_is_plain_json_and_the_same_each_time() -> None:
    predictions = _simulate(lambda *_: 0.8)
    first, second = (json.dumps(weakness(predictions, CONFIG).to_json(), allow_nan=False) for _ in range(2))
    assert first == second


def weakness(predictions: pa.Table, config: ProbeConfig) -> Weakness:
    return weakness_of_pairs(read_pairs(predictions), config)


def _simulate(chance: Callable[[str, int, str | None], float], *, num_sources: int = 240, seed: int = 0) -> pa.Table:
    """Return predictions that are right with `chance`(role, label, after); each source has every edit once."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(num_sources):
        label, key = number % len(CLASSES), f"s{number:04}"

        def predict(role: str, after: str | None = None, label: int = label) -> tuple[int, float]:
            is_right = generator.uniform() < chance(role, label, after)
            p_label = generator.uniform(0.5, 1) if is_right else generator.uniform(0, 0.5)
            return label if is_right else (label + 1) % len(CLASSES), p_label

        rows.append(_row(key, key, "source", label, *predict("source")))
        rows.append(_row(f"{key}-0", key, "placebo", label, *predict("placebo")))
        for kind, afters in (("background", BACKGROUNDS), ("colour", COLOURS)):
            for after in afters:
                prediction = predict("counterfactual", after)
                rows.append(_row(f"{key}-{after}", key, "counterfactual", label, *prediction, after, kind=kind))
    return pa.Table.from_pylist(rows)


def _many_values(truth: dict[str, float], generator: np.random.Generator) -> pa.Table:
    """Return 60 sources that are right at 0.9, each with 6 of the many values, which cost their true drop."""
    rows = []
    for number in range(60):
        key = f"{generator.integers(1 << 60):x}-{number}"
        rows += [
            _row(key, key, "source", 0, 0, 0.9),
            _row(f"{key}-0", key, "placebo", 0, generator.uniform() > 0.9, 0.9),
        ]
        for after in generator.choice(MANY, 6, replace=False):
            wrong = generator.uniform() > 0.9 - truth[after]
            rows.append(_row(f"{key}-{after}", key, "counterfactual", 0, wrong, 0.5, after))
    return pa.Table.from_pylist(rows)


def _cell(table: Weakness, class_name: str | None, kind: str, after: str | None) -> WeaknessCell:
    (cell,) = [cell for cell in table.cells if (cell.class_name, cell.kind, cell.after) == (class_name, kind, after)]
    return cell


def _row(
    key: str,
    source_key: str,
    role: str,
    label: int,
    prediction: int,
    p_label: float,
    after: str | None = None,
    *,
    kind: str = "background",
    accepted: bool = True,
    split: str = "train",
) -> dict[str, object]:
    edit = {"source": (None, None), "placebo": ("placebo", "same"), "counterfactual": (kind, after)}[role]
    return {
        "key": key,
        "source_key": source_key,
        "split_key": source_key,
        "role": role,
        "split": split,
        "label": label,
        "class_name": CLASSES[label],
        "edit_kind": edit[0],
        "edit_before": "plain",
        "edit_after": edit[1],
        "edit_severity": 1.0,
        "edit_strategy": "",
        "edit_steered": False,
        "accepted": accepted,
        "prediction": int(prediction),
        "p_label": p_label,
    }
