"""The result of a training: what its workers hand back, and reinforce.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from engine.runfile.arms import BASE
from engine.sample import Json
from engine.training.gate import Decision, Gate, Score
from engine.training.progress import Progress
from engine.training.recipe import nothing_to_learn_from
from engine.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class TrainOutput:
    """What a worker returns: the progress of all arms, and the images that it had.

    `real_groups`, `edit_groups` and `edit_kinds` are those of the gate. `images` counts the images to draw from,
    `held_out` the edits whose phrase was held out of training.
    """

    progress: Progress
    real_groups: tuple[str, ...]
    edit_groups: tuple[str, ...]
    edit_kinds: tuple[str, ...]
    images: Mapping[str, int]
    held_out: Mapping[str, Json]


def to_result(settings: TrainSettings, output: TrainOutput) -> dict[str, Json]:
    """Return the content of reinforce.json: the arms in the order of the run file, and whether the classifier ships."""
    config, progress = settings.config, output.progress
    base = progress.base
    assert base is not None
    arms: dict[str, Json] = {BASE: base.to_json()}
    scores: dict[str, Score] = {}
    for name in (name for name in config.arms if name in progress.arms):
        record = progress.arms[name]
        assert record.best is not None
        scores[name] = record.best
        arms[name] = record.best.to_json() | {
            "best_step": record.best_step,
            "best_share": record.best_share,
            "frontier": [_without_none(asdict(point)) for point in record.frontier],
            "model": f"models/{name}",
            "history": [_without_none(asdict(line)) for line in record.history],
            **({"fitted": record.fitted} if record.fitted else {}),
        }
    gate = Gate(
        base=base,
        config=config,
        real_groups=output.real_groups,
        edit_groups=output.edit_groups,
        edit_kinds=output.edit_kinds,
    )
    decision = gate.decide(scores, sum(progress.arms[name].num_candidates for name in scores))
    if not output.images["counterfactuals"]:
        decision = Decision(verdict="do not ship", reasons=(nothing_to_learn_from(config),))
    probe = progress.linear_probe
    if probe and decision.verdict == "do not ship":
        decision = replace(decision, reasons=(*decision.reasons, probe.sentence))
    return {
        "arms": arms,
        "verdict": decision.verdict,
        "reasons": list(decision.reasons),
        "decision": dict(decision.numbers),
        "settings": config.model_dump(mode="json") | {"deepspeed": dict(settings.deepspeed), "training": settings.name},
        "images": dict(output.images),
        **({"linear_probe": probe.to_json()} if probe else {}),
        **({"held_out": dict(output.held_out)} if config.held_out_phrases else {}),
        **({"follow": progress.arms[settings.arms[0]].followed()} if settings.follow and progress.arms else {}),
    }


def _without_none(record: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in record.items() if value is not None}
