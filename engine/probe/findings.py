"""The content of weakness.json, computed from the predictions of the classifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.canonical import as_json
from engine.evaluation.confidence import calibration_by_role
from engine.probe.failure_points import failure_points
from engine.probe.looks import found_by_round
from engine.probe.pairs import read_pairs
from engine.probe.phrases import phrases_json, rank_phrases
from engine.probe.transfer import transfer
from engine.probe.weakness import Weakness, weakness
from engine.runfile.probe import ProbeConfig
from engine.sample import Json


@dataclass(frozen=True, kw_only=True)
class ClassifierPredictions:
    """One classifier's predictions on every picture of a run, with its name and digest."""

    classifier: str
    digest: str
    predictions: pa.Table


def findings(
    first: ClassifierPredictions,
    others: Sequence[ClassifierPredictions],
    config: ProbeConfig,
    *,
    seed: int = 0,
    rounds: Mapping[str, int] | None = None,
) -> tuple[Weakness, dict[str, Json]]:
    """Return the weakness table of the first classifier, and the content of weakness.json.

    `rounds` has the round of each source by key, where a run has several. Raises LeakError where a prediction is of the
    test split.
    """
    pairs = read_pairs(first.predictions)
    table = weakness(pairs, config, seed=seed)
    transfers: list[Json] = [
        {
            "classifier": other.classifier,
            "digest": other.digest,
            **transfer(table, pairs, read_pairs(other.predictions), config, seed=seed).to_json(),
        }
        for other in others
    ]
    columns = (first.predictions[name].to_pylist() for name in ("key", "source_key"))
    of_edit = {key: rounds[source] for key, source in zip(*columns, strict=True)} if rounds else {}
    return table, {
        "classifier": first.classifier,
        "digest": first.digest,
        **table.to_json(),
        "failure_points": as_json(failure_points(pairs, config, seed=seed)),
        "phrases": phrases_json(rank_phrases(pairs, config.confidence)),
        "calibration": calibration_by_role(first.predictions),
        "transfer": transfers,
        **({"found_by_round": found_by_round(pairs, of_edit, config)} if rounds else {}),
    }
