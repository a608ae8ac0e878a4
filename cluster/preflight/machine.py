"""Checks of the machine: devices and kernels for the stages, servers, and a place for the results."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from cluster.preflight.code import check_stage_code, check_target
from cluster.preflight.models import models_of
from cluster.session.placement import check_placement, generate_needs, group_placement, probe_needs, reinforce_needs
from cluster.session.session import local_capacity
from cluster.session.temporary import ray_folder
from engine.errors import ModelError, PlacementError, RunDirectoryError, UserError
from engine.plan.estimate import estimate_run
from engine.plan.plan import Plan
from engine.run.directory import refuse_other_contents
from engine.run.info import RUN_INFO, read_run_info, refuse_other_plan
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import Config, Placement, ServerConfig
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.storage.storage import Storage
from engine.wording import size

ANSWER_S = 3.0


def check_machine(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield what the stages ask for in vain: number formats and kernels, code of the user's, servers."""
    for group in run.stage_groups():
        placement = group_placement(run, group)
        for name in group:
            yield from _check_formats(f"stages.{name}", run.stages[name], placement)
            yield from _check_kernel(f"stages.{name}", run.stages[name], placement)
            if isinstance(server := getattr(run.stages[name], "server", None), ServerConfig):
                yield from _check_server(f"stages.{name}.server.url", server.url)
    yield from check_stage_code(run)


def check_probe_device(run: RunFile, plan: Plan) -> Iterator[UserError]:
    """Yield what is wrong with a function that stands for a classifier, or with a number format for its device."""
    yield from _check_formats("probe", run.probe, run.probe.placement)
    if run.probe.callable is not None:
        yield from check_target("probe.callable", run.probe.callable, is_stage=False)


def check_devices(run: RunFile, phases: Sequence[str]) -> Iterator[UserError]:
    """Yield where this machine has no folder for Ray's sockets, or too few GPUs or CPU cores, one for all phases."""
    needs = {"generate": generate_needs(run), "probe": probe_needs(run.probe)}
    if run.probe.model is not None:
        needs["reinforce"] = reinforce_needs(run.reinforce)
    wanted = [found for phase, found in needs.items() if phase in phases]
    for check in (ray_folder, lambda: check_placement(wanted, local_capacity(wanted))):
        try:
            check()
        except PlacementError as error:
            yield error


def check_out(run: RunFile, plan: Plan, out: str) -> Iterator[str | UserError]:
    """Yield what hinders a run directory: other contents, no right to write, or a disk too small for the estimate."""
    storage = Storage(out)
    if storage.exists(RUN_INFO):
        found = read_run_info(storage)
        refuse_other_plan(storage, found, replace(found, name=run.name, digest=plan.digest))
        return
    refuse_other_contents(storage)
    if not storage.is_local:
        return
    folder = next(path for path in (Path(storage.root), *Path(storage.root).parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        kind = "may not be written" if folder.is_dir() else "is a file"
        yield RunDirectoryError(f"--out: {storage} cannot be made, {folder} {kind}: name a folder of yours")
        return
    needed, free = estimate_run(run, plan).size_bytes, shutil.disk_usage(folder).free
    if needed > free:
        yield f"--out: {folder} has {size(free)} free, the images need about {size(needed)}: write to another disk"


def _check_formats(path: str, config: Config, placement: Placement) -> Iterator[UserError]:
    if placement.num_gpus or getattr(config, "server", None) is not None:
        return
    for field, model in models_of(config, path):
        if model.dtype == "float16":
            yield ModelError(
                f"{field}.dtype: float16 is not for a CPU: use bfloat16 or float32, or give it a GPU "
                f"({path}.placement.num_gpus)"
            )


def _check_kernel(path: str, config: Config, placement: Placement) -> Iterator[UserError]:
    kernel = getattr(config, "attention", "default")
    if isinstance(config, CaptionerConfig | PerturberConfig) and config.server is None:
        if kernel == "xformers":
            yield ModelError(f"{path}.attention: xformers is not for language models: use sdpa or flash")
        elif kernel == "flash" and find_spec("flash_attn") is None:
            yield PlacementError(f"{path}.attention: flash needs the package flash-attn: pip install it, or use sdpa")
    elif isinstance(config, EditorConfig) and kernel == "xformers":
        if not placement.num_gpus:
            yield ModelError(f"{path}.attention: xformers needs a GPU: use sdpa, or give {path}.placement.num_gpus")
        elif find_spec("xformers") is None:
            yield PlacementError(
                f"{path}.attention: xformers is not installed: pip install 'counterforge[gpu]', or use sdpa"
            )


def _check_server(field: str, url: str) -> Iterator[str]:
    import requests

    try:
        requests.get(f"{url}/models", timeout=ANSWER_S)
    except requests.RequestException as error:
        said = type(error).__name__
        yield f"{field}: {url} does not answer now ({said}): start the server before the run, or correct the url"
