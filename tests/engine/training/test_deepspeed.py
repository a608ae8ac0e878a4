"""DeepSpeed's settings: what is filled in, and what is refused before anything is spent."""

import json
from pathlib import Path

import pytest

from engine.errors import RunFileError
from engine.runfile.reinforce import ReinforceConfig
from engine.training.deepspeed import deepspeed_settings, precision_name

# As the documentation of the transformers Trainer has it for ZeRO 3, without what changes the result.
OF_THE_TRAINER = {
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
    },
    "gradient_accumulation_steps": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}


def complete(deepspeed: object, **fields: object) -> dict[str, object]:
    config = {"batch_size": 64, "num_workers": 2, "deepspeed": deepspeed, **fields}
    return dict(deepspeed_settings(ReinforceConfig.model_validate(config)))


def test_settings_come_from_a_file_or_from_the_run_file(tmp_path: Path) -> None:
    settings = {"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 2}
    path = tmp_path / "zero2.json"
    path.write_text(json.dumps(settings))
    inline = deepspeed_settings(ReinforceConfig(batch_size=16, num_workers=2, deepspeed=settings))
    assert inline == deepspeed_settings(ReinforceConfig(batch_size=16, num_workers=2, deepspeed=str(path)))
    assert inline["train_micro_batch_size_per_gpu"] == 4


@pytest.mark.parametrize(
    ("deepspeed", "words"),
    [
        ({"optimizer": {"type": "AdamW"}}, "'optimizer', which follows from reinforce.learning_rate"),
        ({"train_batch_size": 7}, "'train_batch_size', which follows from reinforce.batch_size"),
        ({"gradient_accumulation_steps": 3}, "make it a multiple of 6"),
        ("no/such/file.json", "cannot read no/such/file.json"),
        ({"zero_optimisation": {"stage": 2}}, "which DeepSpeed ignores; did you mean 'zero_optimization'"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage is 4: right is 0, 1, 2 or 3"),
        ({"zero_optimization": 2}, "deepspeed.zero_optimization is 2: right are fields"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "gpu"}}}, "offload_optimizer is .*'gpu'"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "offload_param has device nvme and"),
        ({"elasticity": {"enabled": True}}, "has 'elasticity', which DeepSpeed no longer knows"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "enables fp16 and bf16: choose one"),
        ({"fp16": {"enabled": True}}, "enables fp16, which is not for a CPU: enable bf16"),
    ],
)
def test_settings_that_cannot_work_are_refused(deepspeed: object, words: str) -> None:
    with pytest.raises(RunFileError, match=words):
        complete(deepspeed)


def test_the_precision_is_that_of_the_settings() -> None:
    assert precision_name({"bf16": {"enabled": True}}) == "bfloat16"
    assert precision_name({"fp16": {"enabled": True}}) == "float16"
    assert precision_name({"bf16": {"enabled": False}}) == "float32"


def test_what_the_run_file_knows_is_filled_in_for_a_file_of_the_transformers_trainer() -> None:
    assert complete(OF_THE_TRAINER) == {
        "zero_optimization": {"stage": 3, "overlap_comm": True, "sub_group_size": 1e9},
        "gradient_accumulation_steps": 1,
        "steps_per_print": 2000,
        "train_micro_batch_size_per_gpu": 32,
        "wall_clock_breakdown": False,
    }


def test_what_else_is_auto_is_named_at_once_with_what_would_be_right() -> None:
    warmup = {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"}
    more = {
        "fp16": {"enabled": "auto", "loss_scale": 0},
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "scheduler": {"type": "WarmupLR", "params": warmup},
    }
    with pytest.raises(RunFileError) as caught:
        complete(OF_THE_TRAINER | more)
    schedule, autos = str(caught.value).splitlines()
    # Ours falls along a cosine, and WarmupLR stays.
    assert schedule.startswith("reinforce.deepspeed sets 'scheduler', which follows from reinforce.learning_rate and")
    assert autos.endswith(
        "set fp16.enabled (true or false), bf16.enabled (true or false), "
        "gradient_clipping (0 for none, or 1.0, which is the Trainer's default)"
    )
    cosine = {"scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": "auto"}}}
    assert complete(OF_THE_TRAINER | cosine) == complete(OF_THE_TRAINER)


def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zero.json"
    for content, words in (("{'stage': 2}", "is not JSON"), ("[1]", "holds a list"), ("[" * 9999, "is not JSON")):
        path.write_text(content)
        with pytest.raises(RunFileError, match=words):
            complete(str(path))
    path.write_text('{"zero_optimization": {"stage": 2}}', encoding="utf-8-sig")
    assert complete(str(path))["zero_optimization"] == {"stage": 2}


def test_half_precision_is_no_matter_of_guessing() -> None:
    assert precision_name({"bf16": {"enabled": "auto"}}) == "float32"
    gpu = {"placement": {"num_gpus": 1}}
    assert complete({"fp16": {"enabled": True}}, **gpu)["fp16"] == {"enabled": True}
