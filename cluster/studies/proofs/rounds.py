"""Proof of `rounds`: the conflict accuracy of uniform allocation with half of its images, on the demo's classifier."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from cluster.phases.arms import compare_arms
from cluster.phases.evaluate import Evaluation
from cluster.phases.pipeline import open_run, run_phases
from cluster.phases.reinforce import reinforce_run
from cluster.session.placement import reinforce_needs
from cluster.session.session import ray_session
from cluster.studies.proofs.seeds import mean_over_seeds, of_interval
from cluster.studies.proofs.shifted import Shifted
from engine.evaluation.comparison import Comparison
from engine.figures.figures import Figure, share
from engine.run.directory import RunDirectory
from engine.runfile.load import load_run_file
from engine.runfile.run import RunFile
from engine.statistics import Interval

RUN_FILE = Path("configs/wardrobe.yaml")
SETTINGS = (
    # Uniform allocation gives each kind as many; the classifier relies on the background alone.
    "stages.perturber.edits={background: 1, colour: 1, lighting: 1}",
    # The zoo's verifier is worse at lighting: at the demo's threshold it rejects every such edit.
    "stages.verifier.min_directional=0.4",
    # With three edits and a placebo each these fill the editor's batch of 32.
    "shards.sources_per_shard=8",
    "probe.transfer=[]",
    "reinforce.arms=[reinforced]",
)
NUM_ROUNDS = 3
# The non-inferiority margin of conflict accuracy; another seed of the fine-tuning changes it by more.
MARGIN = 0.01
ARMS = ("uniform", "adaptive")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run with its fine-tuned classifier: its directory, and the images made for train sources, placebos included."""

    run: RunFile
    rundir: RunDirectory
    num_images: int


def rounds_figures(
    out: Path, *, num_sources: int = 144, seeds: Sequence[int] = (0, 1, 2), run_file: Path = RUN_FILE
) -> Iterator[Figure]:
    """Yield the figures of each seed, then those over all seeds.

    The uniform arm edits `num_sources` sources in one round, the adaptive arm half of them in NUM_ROUNDS. Both have the
    same validation edits, number of fine-tuning steps and test images. Runs are folders of `out` and resume.
    """
    differences, shares = [], []
    for seed in seeds:
        uniform = run_trial(out, run_file, seed, num_sources, 1)
        adaptive = run_trial(out, run_file, seed, num_sources // 2, NUM_ROUNDS)
        evaluations, compared = compare_trials(uniform, adaptive)
        for arm, trial in zip(ARMS, (uniform, adaptive), strict=True):
            found = evaluations[arm].report.conflict
            assert found is not None
            yield share(f"rounds.{arm}.conflict_accuracy.seed_{seed}", found.correct, found.n)
            yield Figure(name=f"rounds.{arm}.images.seed_{seed}", value=trial.num_images, unit="images")
        interval = Interval(value=compared.difference, low=compared.low, high=compared.high)
        yield of_interval(f"rounds.difference.seed_{seed}", interval, compared.n)
        differences.append(compared.difference)
        shares.append(adaptive.num_images / uniform.num_images)
    yield mean_over_seeds("rounds.difference", differences, target=-MARGIN)
    yield Figure(name="rounds.image_share", value=fmean(shares), target=0.5, better="lower", n=len(shares))


def run_trial(out: Path, run_file: Path, seed: int, num_sources: int, num_rounds: int) -> Trial:
    """Run all phases up to the fine-tuned classifier, or resume them."""
    run = trial_run(run_file, seed, num_sources, num_rounds)
    rundir, plan = open_run(run, str(out / f"rounds-{num_rounds}-{num_sources}-{seed}"))
    run_phases(("generate", "allocate", "probe"), run, rundir, plan)
    with ray_session([reinforce_needs(run.reinforce)]):
        reinforce_run(run, rundir)
    counts = [marker.counts for index, marker in rundir.markers().items() if index < plan.num_train_shards]
    images = sum(found.candidates + found.placebos + found.rejected_placebos for found in counts)
    return Trial(run=run, rundir=rundir, num_images=images)


def trial_run(run_file: Path, seed: int, num_sources: int, num_rounds: int) -> RunFile:
    """Return the run of one arm: the demo's, with other edits and smaller shards."""
    overrides = [f"seed={seed}", f"data.num_sources={num_sources}", f"rounds={{count: {num_rounds}}}", *SETTINGS]
    return load_run_file(run_file, overrides)


def compare_trials(uniform: Trial, adaptive: Trial) -> tuple[dict[str, Evaluation], Comparison]:
    """Return the scores of both arms on the shifted images, and their comparison on conflict images."""
    run, shifted = adaptive.run, Shifted.of(adaptive.run, adaptive.rundir)
    evaluations = {
        arm: shifted.evaluate(trial.run, trial.rundir) for arm, trial in zip(ARMS, (uniform, adaptive), strict=True)
    }
    found = compare_arms(evaluations, shifted.images, shifted.dominant, run, "shifted")
    return evaluations, next(comparison for comparison in found if comparison.where == "conflict")
