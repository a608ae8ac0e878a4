"""Does fine-tuning on edits remove the weakness, better than what needs none, and which part of the recipe does it?

Every arm, and the recipe with one part changed at a time, in one training of several seeds.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from cluster.phases.pipeline import ALL_PHASES, open_run, run_phases
from cluster.studies.proofs.attainable import attainable
from cluster.studies.proofs.seeds import mean_over_seeds
from engine.figures.figures import Figure
from engine.plan.plan import Plan
from engine.run.directory import EVALUATION, RunDirectory
from engine.runfile.arms import BASE, PRESETS
from engine.runfile.load import load_run_file
from engine.runfile.run import RunFile

RUN_FILE = Path("configs/wardrobe.yaml")
CANDIDATE, BOUND = "reinforced", "oracle"
NUM_SOURCES, NUM_STEPS = 1600, 300
BY_WEAKNESS: dict[str, JsonValue] = {"by": "weakness"}
# The arm `reinforced` with one part of the recipe changed.
ABLATIONS: dict[str, JsonValue] = {
    "one_rate": {"edits": BY_WEAKNESS, "first_layer_rate": 1},
    "no_contrast": {"edits": BY_WEAKNESS, "losses": {"contrast": 0}},
    "no_distillation": {"edits": BY_WEAKNESS, "losses": {"distillation": 0}},
    "consistency": {"edits": BY_WEAKNESS, "losses": {"consistency": 1}},
    "worst_group": {"edits": BY_WEAKNESS, "losses": {"worst_group": 0.01}},
    "balanced": {"edits": BY_WEAKNESS, "sampler": "groups"},
    "placebos": {"edits": {**BY_WEAKNESS, "placebos": 0.25}},
    "edits_first": {"edits": {**BY_WEAKNESS, "first": 0.5}, "losses": {"distillation": 0}},
    "head_alone": {"edits": BY_WEAKNESS, "trained": "head"},
    "cut_and_paste": {"edits": BY_WEAKNESS, "augment": "recombine"},
}
SETTINGS = (
    # As many edits of either kind: before the probe it is not known which matters.
    "stages.perturber.edits={background: 2, colour: 2}",
    # With 120 sources the edits separate candidates that differ by four points, not by two.
    "data.num_validation_sources=300",
    # Four edits in five are then of backgrounds, as in the demo. One seed on other garments, at half a point lost: .77
    # on conflict images and .26 in the worst group; with emphasis 1 .75 and .18. Another seed changes as much.
    "reinforce.emphasis=4",
    "probe.transfer=[]",
    "report.num_attributions=0",
    f"reinforce.arms={json.dumps(dict.fromkeys(PRESETS) | ABLATIONS)}",
    # The same garments on every background equally often.
    "data.oracle={kind: wardrobe, split: sources, count: 8000}",
)
# By figure: the test set and its name in evaluation.json.
MEASURES = {
    "conflict_accuracy": ("shifted", "conflict_accuracy"),
    "worst_group_accuracy": ("shifted", "worst_group_accuracy"),
    "accuracy_biased": ("test", "accuracy"),
}

ATTAINABLE = "attainable"
# Measure, name, and the least share to close of the gap to the oracle and of that to what is attainable.
GAPS = (
    ("conflict_accuracy", "reinforce.conflict_gap_closed", {BOUND: 0.8, ATTAINABLE: 0.95}),
    ("worst_group_accuracy", "reinforce.worst_group_gap_closed", {BOUND: 0.7, ATTAINABLE: 0.85}),
)
# Of biased accuracy, and at the upper end of its interval.
ALLOWED_LOSS, MOST_LOST = 0.005, 0.01
NO_RIVALS = (CANDIDATE, BOUND, ATTAINABLE)

Accuracies = dict[str, dict[str, float]]


def reinforce_figures(folder: Path, seeds: Sequence[int]) -> Iterator[Figure]:
    """Yield each arm's accuracies, how much of the gap to the oracle is closed, and what it costs, over seeds.

    A row of `recipe` is by how much a changed recipe is ahead of the arm `reinforced`. A seed is a whole run: other
    sources, other edits, another order of training. Runs resume. ATTAINABLE is an upper bound for arms that lose at
    most ALLOWED_LOSS of accuracy on biased images.
    """
    found = []
    for seed in seeds:
        found.append(run_seed(folder, seed))
        print(f"seed {seed}: {_describe(found[-1])}", flush=True)
    for measure in MEASURES:
        for arm in (BASE, *PRESETS, ATTAINABLE):
            yield mean_over_seeds(f"reinforce.{measure}.{arm}", [accuracies[arm][measure] for accuracies in found])
    for measure, name, targets in GAPS:
        for bound, target in targets.items():
            # Where the bound itself is no better there is no gap to close.
            with_gap = [each for each in found if each[bound][measure] > each[BASE][measure]]
            if with_gap:
                closed = [_closed(each, measure, bound) for each in with_gap]
                yield mean_over_seeds(f"{name}.{bound}", closed, target=target)
    losses = [each[BASE]["accuracy_biased"] - each[CANDIDATE]["accuracy_biased"] for each in found]
    lost = mean_over_seeds("reinforce.biased_accuracy_lost", losses, target=ALLOWED_LOSS, better="lower")
    yield lost
    if lost.high is not None:
        yield Figure(name=f"{lost.name}.high", value=lost.high, target=MOST_LOST, better="lower", n=lost.n)
    for arm in PRESETS:
        if arm not in NO_RIVALS:
            yield mean_over_seeds(f"reinforce.ahead_of.{arm}", _differences(found, "conflict_accuracy", CANDIDATE, arm))
    for measure in MEASURES:
        for arm in ABLATIONS:
            yield mean_over_seeds(f"recipe.{measure}.{arm}", _differences(found, measure, arm, CANDIDATE))


def open_seed(
    folder: Path, name: str, seed: int, num_sources: int, settings: Sequence[str] = ()
) -> tuple[RunFile, RunDirectory, Plan]:
    """Plan the run of a seed, or open it."""
    overrides = [f"seed={seed}", f"data.num_sources={num_sources}", f"reinforce.num_steps={NUM_STEPS}"]
    run = load_run_file(RUN_FILE, [*SETTINGS, *overrides, *settings])
    return run, *open_run(run, str(folder / f"{name}-{num_sources}-{NUM_STEPS}-{seed}"))


def run_seed(folder: Path, seed: int) -> Accuracies:
    """Run all phases but the report, or resume them; return the accuracies of each arm."""
    run, rundir, plan = open_seed(folder, "reinforce", seed, NUM_SOURCES)
    run_phases([name for name in ALL_PHASES if name != "report"], run, rundir, plan)
    evaluation: Any = rundir.read_json(EVALUATION)
    found: Accuracies = {
        arm: {measure: content[test_set][name] for measure, (test_set, name) in MEASURES.items()}
        for arm, content in evaluation["arms"].items()
    }
    return {**found, ATTAINABLE: attainable(run, rundir, found[BASE]["accuracy_biased"] - ALLOWED_LOSS)}


def _closed(accuracies: Accuracies, measure: str, bound: str) -> float:
    """Return the share of the gap between the classifier under test and a bound that the candidate closes."""
    base, reached, most = (accuracies[name][measure] for name in (BASE, CANDIDATE, bound))
    return (reached - base) / (most - base)


def _differences(found: Sequence[Accuracies], measure: str, arm: str, against: str) -> list[float]:
    """Return by how much an arm is ahead of another one, seed by seed."""
    return [each[arm][measure] - each[against][measure] for each in found]


def _describe(accuracies: Accuracies) -> str:
    return "; ".join(
        f"{arm} {found['conflict_accuracy']:.3f} (worst {found['worst_group_accuracy']:.2f}, "
        f"biased {found['accuracy_biased']:.3f})"
        for arm, found in accuracies.items()
    )
