"""A user's own code: the stages and classifiers that a run file names. No torch is imported here that is not wanted."""

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

from engine.errors import ModelError
from engine.runfile.stages import PluginConfig
from engine.sample import Stage


def load_plugin(config: PluginConfig, *, name: str, seed: int) -> Stage:
    """Return `target` (package.module:Class) made as Class(options, device, name=..., seed=...).

    Its device is "cpu" or "cuda", its name that of the stage, and `seed` the run's, for `sample.seed(seed)`. Raises
    ModelError, and PlacementError where CUDA is asked for and is not there.
    """
    remedy = "it must be installed, or its folder on PYTHONPATH, on every machine of the run"
    maker = import_target(config.target, f"stages.{name}.target", "class", remedy)
    _check_takes(maker, f"stages.{name}.target: {config.target}")
    stage = maker(dict(config.options), _device(config), name=name, seed=seed)
    if not callable(stage):
        raise ModelError(
            f"stages.{name}.target: {config.target} makes a {type(stage).__name__}, which cannot be called: "
            "a stage is called with samples and yields samples and rejections"
        )
    made: Stage = stage
    return made


def _check_takes(maker: Callable[..., Any], what: str) -> None:
    """Raise ModelError where a class cannot be made as a stage is."""
    try:
        inspect.signature(maker).bind({}, "cpu", name="", seed=0)
    except TypeError as error:
        raise ModelError(
            f"{what} cannot be made as Class(options, device, name=..., seed=...): {error}; write "
            "def __init__(self, options, device, *, name, seed)"
        ) from error


def _device(config: PluginConfig) -> str:
    """Return the device of a plugin, with the process set up where torch is there or a GPU is asked for."""
    placement = config.placement
    if "torch" not in sys.modules and not placement.num_gpus:
        return "cpu"
    from actors.models.device import resolve_device, set_up_process

    set_up_process(placement.num_threads)
    return resolve_device(placement).type


def import_target(target: str, field: str, kind: str, remedy: str) -> Callable[..., Any]:
    """Return what `package.module:name` names; raises ModelError that names the field, what the module has, a remedy.

    `kind` is "class" or "function"; any callable will do.
    """
    module_name, _, name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(f"{field} {target!r}: cannot import {module_name!r} ({error}): {remedy}") from error
    found = getattr(module, name, None)
    if callable(found):
        return cast(Callable[..., Any], found)
    fits = inspect.isclass if kind == "class" else inspect.isfunction
    known = sorted(key for key, value in vars(module).items() if fits(value) and not key.startswith("_"))
    raise ModelError(f"{field} {target!r}: {module_name} has no {kind} {name!r}, it has {known}")
