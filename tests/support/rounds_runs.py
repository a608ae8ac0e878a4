"""Wardrobe runs with rounds, from a schedule alone to a whole run of the zoo's models at a few sources."""

from collections.abc import Mapping

from repository import DEMO

from cluster.phases.pipeline import run_phases
from engine.plan.plan import Plan
from engine.run.directory import RunDirectory, marker_path
from engine.runfile.load import load_run_file
from engine.runfile.run import RunFile


def rounds_run(
    rounds: object = 2, *, num_sources: int = 24, num_validation: int = 12, per_shard: int = 6, **reinforce: object
) -> RunFile:
    """Return the demo with a few sources, kinds that the bandit can choose among, and a few steps of training."""
    run = load_run_file(DEMO).model_dump()
    run["rounds"] = rounds
    run["data"] |= {"num_sources": num_sources, "num_validation_sources": num_validation}
    run["data"]["train"]["count"] = 400
    run["data"]["test"]["count"] = run["data"]["shifted"]["count"] = 160
    run["shards"]["sources_per_shard"] = per_shard
    run["stages"]["perturber"]["edits"] = {"background": 1, "colour": 1}
    run["stages"]["editor"] |= {"num_inference_steps": 1, "placement": {"replicas": [1, 1]}}
    # All models in one actor: starting three takes longer than what they have to do.
    run["groups"] = [tuple(run["stages"])]
    # One step makes a rough picture; what a rough picture is like is not the question here.
    run["stages"]["verifier"] |= {"min_image": -1, "min_text": -1, "min_directional": -1, "consistency": False}
    run["report"]["num_attributions"] = 0
    run["probe"] |= {"placement": {"replicas": [1, 1]}, "transfer": (), "min_sources": 2, "num_bootstraps": 100}
    run["reinforce"] |= {"arms": ("reinforced",), "num_steps": 4, "eval_every": 4, "interpolation": (), **reinforce}
    return RunFile.model_validate(run)


def files_of_shards(rundir: RunDirectory) -> dict[int, Mapping[str, object]]:
    """Return what the marker of each finished shard says of its files."""
    return {index: rundir.marker(index).files for index in rundir.done()}


def make_shard_again(run: RunFile, rundir: RunDirectory, plan: Plan, shard: int = 1) -> None:
    """Lose the marker of a shard, and resume the generation."""
    rundir.storage.delete(marker_path(shard))
    run_phases(("generate",), run, rundir, plan)
