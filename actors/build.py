"""From a stage's configuration to the stage: the one place that knows every kind.

Each kind is imported where it is wanted: a stage of one's own does not wait for transformers.
"""

from typing import assert_never

import torch

from actors.device import resolve_device, set_up_process
from actors.loading import import_target
from engine.errors import ModelError
from engine.sample import Stage
from engine.stages import (
    AnyStageConfig,
    CaptionerConfig,
    EditorConfig,
    PerturberConfig,
    PluginConfig,
    VerifierConfig,
)


def build_stage(config: AnyStageConfig, *, name: str, seed: int, offline: bool) -> Stage:
    """Return the stage that a configuration describes, its model loaded on its device and its threads fixed.

    `seed` is the run's; `offline` forbids asking a model hub. Raises ModelError or PlacementError.
    """
    device = resolve_device(config.placement)
    set_up_process(config.placement.num_threads)
    match config:
        case CaptionerConfig():
            from actors.captioner import Captioner

            return Captioner(config, device, name=name, offline=offline)
        case PerturberConfig():
            from actors.perturber import Perturber

            return Perturber(config, device, name=name, seed=seed, offline=offline)
        case EditorConfig():
            from actors.editor import Editor

            return Editor(config, device, name=name, seed=seed, offline=offline)
        case VerifierConfig():
            from actors.verifier import Verifier

            return Verifier(config, device, name=name, offline=offline)
        case PluginConfig():
            return load_plugin(config, device, name=name)
        case _:
            assert_never(config)


def load_plugin(config: PluginConfig, device: torch.device, *, name: str) -> Stage:
    """Return `target` (package.module:Class) made as Class(options, device)."""
    remedy = "it must be installed, or its folder on PYTHONPATH, on every machine of the run"
    maker = import_target(config.target, f"stages.{name}.target", "class", remedy)
    stage = maker(dict(config.options), device)
    if not callable(stage):
        raise ModelError(
            f"stages.{name}.target: {config.target} makes a {type(stage).__name__}, which cannot be called: "
            "a stage is called with samples and yields samples and rejections"
        )
    made: Stage = stage
    return made
