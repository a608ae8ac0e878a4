"""DeepSpeed's settings: read from a JSON file or the run file, checked, and completed from the section `reinforce`."""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from engine.credentials import refuse_credentials
from engine.errors import RunFileError
from engine.runfile.reinforce import ReinforceConfig
from engine.sample import Json

# In files of the transformers Trainer, which fills it in.
AUTO = "auto"
# Set by the fields of `reinforce`, so that they cannot be set twice and differ.
OWNED_SETTINGS = {
    "train_batch_size": "batch_size",
    "train_micro_batch_size_per_gpu": "batch_size and num_workers",
    "optimizer": "learning_rate and weight_decay",
    "scheduler": "learning_rate and warmup_share",
}
# The kinds that are ours anyway: DeepSpeed's Adam decouples weight decay, too.
OWN_KINDS = {"optimizer": ("adam", "adamw"), "scheduler": ("warmupcosinelr",)}
# The Trainer computes these from the model's width. They change speed and memory alone; DeepSpeed has defaults.
SPEED_SETTINGS = {
    "zero_optimization.reduce_bucket_size",
    "zero_optimization.allgather_bucket_size",
    "zero_optimization.sub_group_size",
    "zero_optimization.stage3_prefetch_bucket_size",
    "zero_optimization.stage3_param_persistence_threshold",
    "zero_optimization.stage3_max_live_parameters",
    "zero_optimization.stage3_max_reuse_distance",
}
MEANINGS = {
    "gradient_clipping": "0 for none, or 1.0, which is the Trainer's default",
    "fp16.enabled": "true or false",
    "bf16.enabled": "true or false",
}
# DeepSpeed ignores a top-level name that it does not know.
NAMES = ("zero_optimization", "gradient_accumulation_steps", "gradient_clipping", "fp16", "bf16", "torch_autocast")
SECTIONS = ("zero_optimization", "fp16", "bf16", "bfloat16", "torch_autocast")
REMOVED = ("amp", "elasticity")


def deepspeed_settings(config: ReinforceConfig) -> dict[str, Json]:
    """Return the complete DeepSpeed settings of a run; raise RunFileError, a line each, where they cannot work."""
    settings = _read(config.deepspeed) if isinstance(config.deepspeed, str) else dict(config.deepspeed)
    _refuse_unsafe(settings)
    settings = _without_owned(settings)
    if problems := [*_problems(settings, config)]:
        raise RunFileError("\n".join(f"reinforce.deepspeed{problem}" for problem in problems))
    accumulation = settings.get("gradient_accumulation_steps", 1)
    if not isinstance(accumulation, int) or accumulation < 1:
        raise RunFileError(f"reinforce.deepspeed.gradient_accumulation_steps is {accumulation!r}: right is 1 or more")
    parts = config.num_workers * accumulation
    if config.batch_size % parts:
        raise RunFileError(
            f"reinforce.batch_size is {config.batch_size}, which {config.num_workers} workers with "
            f"{accumulation} accumulation steps cannot share evenly: make it a multiple of {parts}"
        )
    return settings | {
        "gradient_accumulation_steps": accumulation,
        "train_micro_batch_size_per_gpu": config.batch_size // parts,
    }


def precision_name(settings: Mapping[str, Json]) -> Literal["float32", "bfloat16", "float16"]:
    """Return the number format in which DeepSpeed keeps the weights."""
    if _enabled(settings, "bf16") or _enabled(settings, "bfloat16"):
        return "bfloat16"
    return "float16" if _enabled(settings, "fp16") else "float32"


def _read(path: str) -> dict[str, Json]:
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RunFileError(
            f"reinforce.deepspeed: cannot read {path}: {error.strerror}: name a DeepSpeed JSON file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RunFileError(f"reinforce.deepspeed: {path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise RunFileError(f"reinforce.deepspeed: {path} holds a {type(settings).__name__}: right is a JSON object")
    return settings


def _refuse_unsafe(settings: Mapping[str, Json]) -> None:
    """Refuse secrets, which would be written to reinforce.json, and modules that DeepSpeed would import."""
    try:
        refuse_credentials(dict(settings))
    except ValueError as error:
        raise RunFileError(f"reinforce.deepspeed: {error}") from error
    autocast = settings.get("torch_autocast")
    modules = autocast.get("lower_precision_safe_modules") if isinstance(autocast, dict) else None
    names = modules if isinstance(modules, list) else []
    if foreign := [name for name in names if not str(name).startswith("torch.nn.")]:
        raise RunFileError(
            f"reinforce.deepspeed.torch_autocast.lower_precision_safe_modules names {foreign[0]!r}, which DeepSpeed "
            "would import: name classes of torch.nn, such as torch.nn.Linear"
        )


def _without_owned(settings: Mapping[str, Json]) -> dict[str, Json]:
    """Return the settings without those that say "auto" for what the run file or DeepSpeed knows."""
    kept = {name: value for name, value in settings.items() if not _asks_for_ours(name, value)}
    if kept.get("gradient_accumulation_steps") == AUTO:
        kept["gradient_accumulation_steps"] = 1
    if isinstance(zero := kept.get("zero_optimization"), dict):
        kept["zero_optimization"] = {
            name: value
            for name, value in zero.items()
            if value != AUTO or f"zero_optimization.{name}" not in SPEED_SETTINGS
        }
    return kept


def _asks_for_ours(name: str, value: Json) -> bool:
    if name not in OWNED_SETTINGS or not isinstance(value, dict):
        return name in OWNED_SETTINGS and value == AUTO
    params = value.get("params", {})
    autos = isinstance(params, dict) and bool(params) and all(each == AUTO for each in params.values())
    return autos and str(value.get("type")).lower() in OWN_KINDS.get(name, ())


def _problems(settings: Mapping[str, Json], config: ReinforceConfig) -> Iterator[str]:
    """Yield what cannot work, each after the words `reinforce.deepspeed`."""
    for name in settings:
        if (owner := OWNED_SETTINGS.get(name)) is not None:
            yield f" sets {name!r}, which follows from reinforce.{owner}: leave it out"
        elif name not in NAMES and (near := difflib.get_close_matches(name, NAMES, n=1, cutoff=0.85)):
            yield f" sets {name!r}, which DeepSpeed ignores; did you mean {near[0]!r}?"
    others = {name: value for name, value in settings.items() if name not in OWNED_SETTINGS}
    if autos := [f"{name} ({MEANINGS.get(name, 'a value, or leave it out')})" for name in _autos(others)]:
        yield f": 'auto' is for the transformers Trainer, which knows what is meant: set {', '.join(autos)}"
    yield from (f" has {name!r}, which DeepSpeed no longer knows: leave it out" for name in REMOVED if name in settings)
    for name in SECTIONS:
        if not isinstance(settings.get(name, {}), dict):
            yield f".{name} is {settings[name]!r}: right are fields, such as {{stage: 2}} or {{enabled: true}}"
    if isinstance(zero := settings.get("zero_optimization"), dict):
        if zero.get("stage", 0) not in (0, 1, 2, 3):
            yield f".zero_optimization.stage is {zero['stage']!r}: right is 0, 1, 2 or 3"
        for name in ("offload_optimizer", "offload_param"):
            yield from (f".zero_optimization.{name}{problem}" for problem in _offload_problems(zero.get(name)))
    if _enabled(settings, "fp16") and precision_name(settings) == "bfloat16":
        yield " enables fp16 and bf16: choose one"
    elif precision_name(settings) == "float16" and not config.placement.num_gpus:
        yield " enables fp16, which is not for a CPU: enable bf16, or give it a GPU with reinforce.placement.num_gpus"


def _offload_problems(offload: Json) -> Iterator[str]:
    device = offload.get("device", "none") if isinstance(offload, dict) else None
    if offload is not None and device not in ("none", "cpu", "nvme"):
        yield f" is {offload!r}: right is {{device: cpu}}, or {{device: nvme, nvme_path: FOLDER}}"
    elif device == "nvme" and isinstance(offload, dict) and not offload.get("nvme_path"):
        yield " has device nvme and no nvme_path: name a folder on the NVMe disk"


def _autos(value: Json, at: str = "") -> Iterator[str]:
    """Yield the path of each "auto"."""
    if value == AUTO:
        yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from _autos(part, f"{at}.{name}" if at else str(name))


def _enabled(settings: Mapping[str, Json], section: str) -> bool:
    found = settings.get(section)
    return isinstance(found, dict) and found.get("enabled") in (True,)
