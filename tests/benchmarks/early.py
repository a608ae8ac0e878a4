"""Early rejection: accepted images a second with previews and without, on edits of which three in ten are accepted.

The zoo's editor, its verifier and its CLIP for the previews, on garments that it was trained on; milder and stronger
edits, most of them too mild to be seen. The least direction is set so that the verifier accepts 30 % of a pilot, the
cut is calibrated on that pilot as a run's is, and both arms are measured on other edits.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path

from actors.build import build_stage
from actors.images.codec import encode_jpeg
from actors.models.device import fix_threads
from actors.zoo.exam.editor import edit_of, targets
from engine.figures.figures import Figure, share
from engine.runfile.load import load_run_file
from engine.runfile.run import RunFile
from engine.sample import EditKind, Sample, Stage
from engine.selection.early import as_pilot, early_editor
from engine.selection.selection import thresholds_of
from engine.verdicts.early_cut import PREVIEW, FoundCut, Previewed, find_cut, steps_before
from engine.verdicts.rule import EARLY, verdict_of
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import Scene, caption, make_scenes, render
from tests.benchmarks.pairs import ratio_figure

DEMO = Path(__file__).parents[2] / "configs" / "wardrobe.yaml"
STEPS = 30
SETTINGS = (
    f"stages.editor.num_inference_steps={STEPS}",
    "stages.editor.scheduler=DDIMScheduler",
    # Few rows a call, so that few are empty at the end of so small a shard.
    "stages.editor.batch_size=8",
    "stages.editor.early_rejection={}",
)
YIELD = 0.3
SEVERITIES = (0.2, 0.4, 0.6, 0.8)
KINDS: tuple[EditKind, ...] = ("background", "colour")
PILOT_SOURCES = 640
NUM_ROUNDS, SOURCES_A_ROUND = 15, 64
NAME = "early.times_accepted_per_second"


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Hold the stages of both arms, and every edit that each has made, by key."""

    early: Stage
    whole: Stage
    verifier: Stage
    made: dict[str, dict[str, Sample]]

    def call(self, name: str, shards: Sequence[Sequence[Sample]]) -> Callable[[], None]:
        """Return a call that sends the next shard through one arm: each twice, the first three times."""
        numbers = count()

        def call() -> None:
            shard = shards[max(0, next(numbers) - 1) // 2]
            self.made.setdefault(name, {}).update(_edited(getattr(self, name), self.verifier, shard))

        return call


def early_figures(folder: Path) -> Iterator[Figure]:
    """Yield figure 6."""
    fix_threads(1)
    run = load_run_file(DEMO, SETTINGS)
    scenes = list(make_scenes(load_garments("sources"), "early", PILOT_SOURCES + NUM_ROUNDS * SOURCES_A_ROUND))
    pilot, *shards = _shards(scenes)
    run, found = _calibrated(run, pilot)
    least = thresholds_of(run).min_directional
    assert found.least is not None, found.why
    pilot = as_pilot(run)
    editor = pilot.stages["editor"].model_copy(update={"checks": found.checks, "least": found.least, "cut": NAME})
    arms = Arms(
        early=build_stage(editor, name="editor", seed=0, offline=True),
        whole=build_stage(run.stages["editor"], name="editor", seed=0, offline=True),
        verifier=build_stage(run.stages["verifier"], name="verifier", seed=0, offline=True),
        made={},
    )
    times = ratio_figure(
        NAME, arms.call("early", shards), arms.call("whole", shards), num_rounds=NUM_ROUNDS, clock=time.process_time
    )
    yield from _figures(times, arms.made["early"], arms.made["whole"])
    yield Figure(name="early.pilot_min_directional", value=least, n=len(KINDS) * PILOT_SOURCES, unit="cosine")
    yield Figure(name="early.limit", value=_limit(run), unit="times")


def _figures(times: Figure, early: dict[str, Sample], whole: dict[str, Sample]) -> Iterator[Figure]:
    """Yield the figures of two arms that tried the same edits; the pictures that both made must be the same."""
    accepted = {key for key, sample in whole.items() if _is_accepted(sample)}
    dropped = {key for key, sample in early.items() if sample.verdict is not None and EARLY in sample.verdict.reasons}
    assert early.keys() == whole.keys()
    assert all(early[key].image == whole[key].image for key in early.keys() - dropped)
    left = len(accepted - dropped) / len(accepted)
    low, high = times.low or math.nan, times.high or math.nan
    yield replace(times, value=times.value * left, low=low * left, high=high * left, target=1.7, better="higher")
    yield share("early.false_rejects", len(accepted & dropped), len(accepted), 0.02, better="lower")
    yield share("early.dropped_of_the_rejected", len(dropped - accepted), len(whole.keys() - accepted))
    yield share("early.yield", len(accepted), len(whole))


def _limit(run: RunFile) -> float:
    """Return the times for a preview that errs never: what is rejected costs no more than until there."""
    found = early_editor(run)
    assert found is not None
    _, _, early = found
    until = steps_before(early, STEPS)
    return STEPS / (YIELD * (STEPS + early.ahead) + (1 - YIELD) * (until + early.ahead))


def _calibrated(run: RunFile, pilot: Sequence[Sample]) -> tuple[RunFile, FoundCut]:
    """Return the run with the least direction that lets 30 % of a pilot pass, and the cut that the pilot allows."""
    pilot_run = as_pilot(run)
    stages = [build_stage(pilot_run.stages[name], name=name, seed=0, offline=True) for name in ("editor", "verifier")]
    edits = list(_edited(*stages, pilot).values())
    verifier = thresholds_of(run)
    others = verifier.model_copy(update={"min_directional": -1.0})
    passing = [
        edit.scores["directional"] for edit in edits if verdict_of(edit.scores, others, text_changes=True).accepted
    ]
    least = sorted(passing, reverse=True)[round(YIELD * len(edits)) - 1]
    strict = verifier.model_copy(update={"min_directional": least})
    previewed = [
        Previewed(
            split_key=edit.source_key,
            preview={name.removeprefix(PREVIEW): edit.scores[name] for name in edit.scores if name.startswith(PREVIEW)},
            final=edit.scores,
            is_accepted=verdict_of(edit.scores, strict, text_changes=True).accepted,
        )
        for edit in edits
    ]
    found = early_editor(run)
    assert found is not None
    _, config, early = found
    calibrated = run.model_copy(update={"stages": {**run.stages, "verifier": strict}})
    return calibrated, find_cut(previewed, early, config, strict)


def _edited(editor: Stage, verifier: Stage, shard: Sequence[Sample]) -> dict[str, Sample]:
    """Return the edits of a shard after both stages, by key; what was dropped early passes the second by."""
    drawn = [item for item in editor(shard) if isinstance(item, Sample)]
    dropped = [sample for sample in drawn if sample.verdict is not None]
    judged = verifier([sample for sample in drawn if sample.verdict is None])
    found = {item.key: item for item in (*judged, *dropped) if isinstance(item, Sample) and item.role != "source"}
    assert len(found) == sum(sample.role != "source" for sample in shard)
    return found


def _is_accepted(sample: Sample) -> bool:
    return sample.verdict is not None and sample.verdict.accepted


def _shards(scenes: Sequence[Scene]) -> Iterator[list[Sample]]:
    """Yield the pilot and then a shard for each round: sources, each with an edit of each kind."""
    goals = {kind: targets(scenes, kind) for kind in KINDS}
    starts = [0, *range(PILOT_SOURCES, len(scenes), SOURCES_A_ROUND), len(scenes)]
    for start, stop in pairwise(starts):
        sources = [_source(scene) for scene in scenes[start:stop]]
        edits = [
            replace(
                source,
                key=f"{source.key}_cf{place:02d}",
                role="counterfactual",
                image=b"",
                edit=edit_of(kind, scenes[number], goals[kind][number], SEVERITIES[(number + 2 * place) % 4]),
            )
            for number, source in enumerate(sources, start)
            for place, kind in enumerate(KINDS)
        ]
        yield [*sources, *edits]


def _source(scene: Scene) -> Sample:
    pixels, _ = render(scene, load_garments("sources"))
    return Sample(
        key=scene.key, source_key=scene.key, role="source", image=encode_jpeg(pixels, 95), label=scene.label,
        class_name=scene.class_name, split="train", caption=caption(scene),
    )  # fmt: skip
