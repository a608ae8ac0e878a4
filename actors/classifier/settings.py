"""What a checkpoint's JSON files say of it before its weights are loaded: outputs, channels, image processor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from actors.classifier.classes import match_classes, order_remarks, output_names, taken_in_order
from actors.models.files import fetch_json, is_hub_id, read_json, resolve_model
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.sample import Json

CONFIG, PROCESSOR, PROCESSORS = "config.json", "preprocessor_config.json", "processor_config.json"
# The name of a JSON file to its content, None where there is no such file.
Read = Callable[[str], dict[str, Json] | None]


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """A checkpoint's outputs by name (None: timm knows them), its channels, and what a user should know of it."""

    model: str
    names: Sequence[str] | None
    num_channels: int
    notes: Sequence[str]

    def remarks(self, classes: Sequence[str]) -> list[str]:
        """Return what a user should know before it is asked; raises ModelError where the run's classes do not match."""
        if self.names is None:
            return [*self.notes]
        match_classes(self.names, classes, self.model)
        return [*order_remarks(self.names, classes, self.model), *self.restriction(classes), *self.notes]

    def restriction(self, classes: Sequence[str]) -> list[str]:
        """Return a line where the model has more classes than the run."""
        if self.names is None or len(self.names) <= len(classes):
            return []
        return [
            f"model {self.model!r} has {len(self.names):,} classes, its answers are restricted to the run's "
            f"{len(classes):,}; fine-tuned it has these alone"
        ]


def read_settings(model: str, read: Read) -> CheckpointSettings:
    """Return the settings of a checkpoint; raises ModelError for one that does not choose one of several classes."""
    config = read(CONFIG)
    if config is None:
        raise ModelError(f"model {model!r} has no {CONFIG}: name a classifier that save_pretrained wrote")
    names = output_names(config, model)
    kinds = [str(kind) for kind in _list(config.get("architectures"))]
    notes = [
        f"model {model!r} is saved as a {kind}, which may have no head that answers with classes"
        for kind in kinds[:1]
        if "ForImageClassification" not in kind
    ]
    num_channels = _num_channels(config)
    if is_timm(config):
        if missing := [package for package in ("timm", "torchvision") if find_spec(package) is None]:
            raise ModelError(
                f"model {model!r} is a checkpoint of timm, which needs {' and '.join(missing)} here: "
                "pip install timm torchvision (the torchvision of your version of torch)"
            )
    else:
        processor = read(PROCESSOR) or (read(PROCESSORS) or {}).get("image_processor")
        notes += _check_processor(model, processor, num_channels)
    return CheckpointSettings(model=model, names=names, num_channels=num_channels, notes=notes)


def is_timm(config: Mapping[str, Json]) -> bool:
    """Return whether a config.json is timm's, with or without transformers' wrapper."""
    return config.get("model_type", "timm_wrapper") == "timm_wrapper" and "architecture" in config


def settings_of(model: ModelConfig, offline: bool) -> CheckpointSettings | None:
    """Return the settings of a checkpoint, None where the hub does not answer; raises ModelError."""
    read: Read
    try:
        read = partial(read_json, resolve_model(model, offline=True).folder)
    except ModelError:
        if offline or not is_hub_id(model.name):
            raise
        read = partial(fetch_json, model)
        if read(CONFIG) is None:
            return None
    return read_settings(model.name, read)


def checkpoint_remarks(model: ModelConfig, classes: Sequence[str], offline: bool) -> list[str]:
    """Return what a user should know of a checkpoint; raises ModelError where it cannot answer in the run's classes."""
    settings = settings_of(model, offline)
    return [] if settings is None else settings.remarks(classes)


def output_remarks(config: ProbeConfig, classes: Sequence[str], offline: bool = False) -> list[str]:
    """Return what a user should know of a classifier's outputs: which class each is taken for, where no name says it.

    Loads no weights and runs no code. Raises ModelError.
    """
    if config.model is not None:
        return checkpoint_remarks(config.model, classes, offline)
    return [f"probe.callable {config.callable!r}: {taken_in_order(classes)}"]


def _check_processor(model: str, processor: Json, num_channels: int) -> list[str]:
    if not isinstance(processor, dict):
        raise ModelError(
            f"model {model!r} has no {PROCESSOR}, which says how images become its inputs: write it with "
            "AutoImageProcessor.from_pretrained(the model it was trained from).save_pretrained(its folder)"
        )
    means = processor.get("image_mean")
    is_rgb = bool(processor.get("do_convert_rgb")) or (isinstance(means, list) and len(means) == 3)
    if num_channels not in (1, 3):
        raise ModelError(f"model {model!r} sees {num_channels} channels, images have 3 (or 1, in grey): name another")
    if num_channels == 1 and is_rgb and processor.get("do_normalize", True):
        raise ModelError(
            f"model {model!r} sees grey images (num_channels: 1), but its {PROCESSOR} is for colour: set image_mean "
            "and image_std to one value each, such as [0.5], and do_convert_rgb: false"
        )
    if processor.get("do_resize") is False:
        return [f"model {model!r} has do_resize: false in its {PROCESSOR}: all images must have one size"]
    return []


def _num_channels(config: Mapping[str, Json]) -> int:
    vision, pretrained = config.get("vision_config"), config.get("pretrained_cfg")
    found = config.get("num_channels", vision.get("num_channels") if isinstance(vision, dict) else None)
    if isinstance(pretrained, dict):
        found = next(iter(_list(pretrained.get("input_size"))), found)
    return found if isinstance(found, int) else 3


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
