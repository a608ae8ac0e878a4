import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from repository import PYTHONPATH
from tint_runs import tint_run, write_images
from tiny_models import jpeg, save_clip, save_clipseg, save_encoder_decoder, save_language_model
from tiny_pipelines import save_stable_diffusion

from actors.build import build_stage
from actors.captioner.captioner import Captioner
from actors.compositor.compositor import Compositor
from actors.editor.editor import Editor
from actors.perturber.perturber import Perturber
from actors.verifier.verifier import Verifier
from engine.errors import ModelError, PlacementError
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.editor import CompositorConfig, EditorConfig
from engine.runfile.fields import ModelConfig, Placement, StageConfig
from engine.runfile.load import dump_run_file
from engine.runfile.perturber import PerturberConfig
from engine.runfile.stages import PluginConfig
from engine.runfile.verifier import VerifierConfig
from engine.sample import Rejection, Sample

PLUGIN = """
class Stamp:
    def __init__(self, options, device, *, name, seed):
        self.options, self.device = options, device

    def __call__(self, batch):
        yield from batch

class NotAStage:
    def __init__(self, options, device, *, name, seed):
        pass

NOT_A_CLASS = 3
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_stages.py").write_text(PLUGIN)
    (tmp_path / "my_broken_stages.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(str(tmp_path))


def build(config: StageConfig) -> object:
    return build_stage(config, name="mine", seed=1, offline=True)  # type: ignore[arg-type]  # one of the union


def test_every_kind_is_built(tmp_path: Path) -> None:
    def model(save: object, *arguments: str) -> ModelConfig:
        return ModelConfig(name=str(save(tmp_path / save.__name__, *arguments)))

    assert isinstance(build(CaptionerConfig(model=model(save_encoder_decoder))), Captioner)
    assert isinstance(build(PerturberConfig(model=model(save_language_model))), Perturber)
    assert isinstance(build(CompositorConfig(method="remove", mask_model=model(save_clipseg))), Compositor)
    assert isinstance(build(EditorConfig(model=model(save_stable_diffusion, "instruct"))), Editor)
    assert isinstance(build(VerifierConfig(model=model(save_clip))), Verifier)


def test_stages_in_a_row_make_verified_edits_or_say_why_not(tmp_path: Path) -> None:
    configs: dict[str, StageConfig] = {
        "captioner": CaptionerConfig(
            model=ModelConfig(name=str(save_encoder_decoder(tmp_path / "captioner"))), max_new_tokens=4
        ),
        "perturber": PerturberConfig(
            model=ModelConfig(name=str(save_language_model(tmp_path / "lm"))), max_new_tokens=4
        ),
        "editor": EditorConfig(
            model=ModelConfig(name=str(save_stable_diffusion(tmp_path / "sd", "instruct"))), num_inference_steps=1
        ),
        "verifier": VerifierConfig(model=ModelConfig(name=str(save_clip(tmp_path / "clip")))),
    }
    samples = [
        Sample(
            key=f"s{index}", source_key=f"s{index}", role="source", image=jpeg(seed=index), label=0,
            class_name="sneaker", split="train",
        )
        for index in range(2)
    ]  # fmt: skip
    rejections: list[Rejection] = []
    for name, config in configs.items():
        results: list[Sample] = []
        for item in build_stage(config, name=name, seed=1, offline=True)(samples):  # type: ignore[arg-type]
            (rejections if isinstance(item, Rejection) else results).append(item)  # type: ignore[arg-type]
        samples = results
    assert [sample.key for sample in samples] == ["s0", "s0_placebo", "s1", "s1_placebo"]
    assert all(sample.image and sample.scores for sample in samples)
    assert {item.stage for item in rejections} == {"perturber"}  # a random language model writes no JSON
    assert len(rejections) == 6


def test_a_placement_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlacementError):
        build(VerifierConfig(model=ModelConfig(name="x"), placement=Placement(num_gpus=1)))


@pytest.mark.usefixtures("plugin")
def test_a_plugin_gets_its_options_and_device() -> None:
    stage = build(PluginConfig(target="my_stages:Stamp", options={"word": "hello"}))
    assert stage.options == {"word": "hello"}  # type: ignore[attr-defined]
    assert stage.device == "cpu"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("plugin")
def test_a_plugin_of_torch_has_its_threads_and_none_has_a_gpu_that_is_not_there() -> None:
    torch.set_num_threads(1)
    build(PluginConfig(target="my_stages:Stamp", placement=Placement(num_threads=2)))
    assert torch.get_num_threads() == 2
    with pytest.raises(PlacementError, match="CUDA is not available"):
        build(PluginConfig(target="my_stages:Stamp", placement=Placement(num_gpus=0.5)))


def test_an_actor_of_plugins_without_torch_imports_none(tmp_path: Path) -> None:
    run = tint_run(write_images(tmp_path / "images"), grouped=True)
    (tmp_path / "run.yaml").write_text(dump_run_file(run))
    script = (
        "import sys; from cluster.dataflow.stage_group import StageGroup; "
        "from engine.runfile.load import load_run_file; from engine.storage.storage import Storage; "
        "group = StageGroup(load_run_file(sys.argv[1]), ['tint', 'judge'], Storage(sys.argv[2])); "
        "assert group.failure is None and not {'torch', 'transformers'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run.yaml"), str(tmp_path)], env=environment, check=True
    )


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module:Stamp", r"stages\.mine\.target 'no_such_module:Stamp': cannot import 'no_such_module'"),
        ("my_broken_stages:Stamp", "not_installed_anywhere"),
        ("my_stages:Stmp", r"no class 'Stmp', it has \['NotAStage', 'Stamp'\]"),
        ("my_stages:NOT_A_CLASS", "no class 'NOT_A_CLASS'"),
        ("my_stages:NotAStage", "which cannot be called"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused(target: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(PluginConfig(target=target))
