"""Proof of `rounds`: the conflict accuracy of uniform allocation with half of its images, on the demo's classifier."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from cluster.phases.arms import compare_arms
from cluster.phases.pipeline import open_run, run_phases
from cluster.phases.reinforce import reinforce_run
from cluster.session.placement import reinforce_needs
from cluster.session.session import ray_session
from cluster.studies.proofs.seeds import mean_over_seeds, of_interval
from cluster.studies.proofs.shifted import Shifted
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
NUM_SOURCES, NUM_ROUNDS = 144, 3
# The non-inferiority margin of conflict accuracy; another seed of the fine-tuning changes it by more.
MARGIN = 0.01
# Numbers of sources and of rounds.
ARMS = {"uniform": (NUM_SOURCES, 1), "adaptive": (NUM_SOURCES // 2, NUM_ROUNDS)}


def rounds_figures(out: Path, seeds: Sequence[int]) -> Iterator[Figure]:
    """Yield the figures of each seed, then those over all seeds.

    The uniform arm edits NUM_SOURCES sources in one round, the adaptive arm half of them in NUM_ROUNDS. Both have the
    same validation edits, number of fine-tuning steps and test images. Runs are folders of `out` and resume.
    """
    differences, shares = [], []
    for seed in seeds:
        runs, num_images, evaluations = {}, {}, {}
        for arm, (num_sources, num_rounds) in ARMS.items():
            run = trial_run(RUN_FILE, seed, num_sources, num_rounds)
            runs[arm] = run, (rundir := fine_tuned(run, out / f"rounds-{num_rounds}-{num_sources}-{seed}"))
            num_images[arm] = num_train_images(rundir)
        shifted = Shifted.of(*runs["adaptive"])
        for arm, trial in runs.items():
            evaluations[arm] = shifted.evaluate(*trial)
            found = evaluations[arm].report.conflict
            assert found is not None
            yield share(f"rounds.{arm}.conflict_accuracy.seed_{seed}", found.correct, found.n)
            yield Figure(name=f"rounds.{arm}.images.seed_{seed}", value=num_images[arm], unit="images")
        comparisons = compare_arms(evaluations, shifted.images, shifted.dominant, runs["adaptive"][0], "shifted")
        compared = next(comparison for comparison in comparisons if comparison.where == "conflict")
        interval = Interval(value=compared.difference, low=compared.low, high=compared.high)
        yield of_interval(f"rounds.difference.seed_{seed}", interval, compared.n)
        differences.append(compared.difference)
        shares.append(num_images["adaptive"] / num_images["uniform"])
    yield mean_over_seeds("rounds.difference", differences, target=-MARGIN)
    yield Figure(name="rounds.image_share", value=fmean(shares), target=0.5, better="lower", n=len(shares))


def fine_tuned(run: RunFile, root: Path) -> RunDirectory:
    """Run all phases up to the fine-tuned classifier, or resume them."""
    rundir, plan = open_run(run, str(root))
    run_phases(("generate", "allocate", "probe"), run, rundir, plan)
    with ray_session([reinforce_needs(run.reinforce)]):
        reinforce_run(run, rundir)
    return rundir


def num_train_images(rundir: RunDirectory) -> int:
    """Return the number of images made for train sources, placebos included."""
    num_shards = rundir.plan().num_train_shards
    counts = [marker.counts for index, marker in rundir.markers().items() if index < num_shards]
    return sum(found.candidates + found.placebos + found.rejected_placebos for found in counts)


def trial_run(run_file: Path, seed: int, num_sources: int, num_rounds: int) -> RunFile:
    """Return the run of one arm: the demo's, with other edits and smaller shards."""
    overrides = [f"seed={seed}", f"data.num_sources={num_sources}", f"rounds={{count: {num_rounds}}}", *SETTINGS]
    return load_run_file(run_file, overrides)
