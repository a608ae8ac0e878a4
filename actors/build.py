"""From a stage's configuration to the stage: the one place that knows every kind.

Each kind is imported where it is wanted: a stage of one's own does not wait for transformers, nor for torch.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import assert_never

from actors.plugins import load_plugin
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.editor import CompositorConfig, EditorConfig
from engine.runfile.perturber import PerturberConfig
from engine.runfile.stages import AnyStageConfig, PluginConfig
from engine.runfile.verifier import VerifierConfig
from engine.sample import Stage


def build_stage(
    config: AnyStageConfig,
    *,
    name: str,
    seed: int,
    offline: bool,
    classes: Sequence[str] = (),
    words: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Stage:
    """Return the stage that a configuration describes, its model loaded on its device and its threads fixed.

    `seed` is the run's; `offline` forbids asking a model hub; `classes` are the run's, and `words` name them.
    Raises ModelError and PlacementError.
    """
    if isinstance(config, PluginConfig):
        return load_plugin(config, name=name, seed=seed)
    from actors.models.device import resolve_device, set_up_process

    device = resolve_device(config.placement)
    set_up_process(config.placement.num_threads)
    match config:
        case CaptionerConfig():
            from actors.captioner.captioner import Captioner

            return Captioner(config, device, name=name, offline=offline)
        case PerturberConfig():
            from actors.perturber.perturber import Perturber

            return Perturber(config, device, name=name, seed=seed, offline=offline)
        case EditorConfig():
            from actors.editor.editor import Editor

            return Editor(config, device, name=name, seed=seed, offline=offline, words=words)
        case CompositorConfig():
            from actors.compositor.compositor import Compositor

            return Compositor(config, device, name=name, seed=seed, offline=offline, words=words)
        case VerifierConfig():
            from actors.verifier.verifier import Verifier

            return Verifier(config, device, name=name, offline=offline, classes=classes, words=words)
        case _:
            assert_never(config)
