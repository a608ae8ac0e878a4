"""The number of a checkpoint's classes, from its config.json alone."""

import json
from contextlib import suppress
from pathlib import Path

from actors.models.files import resolve_model
from engine.runfile.fields import ModelConfig


def num_outputs(model: ModelConfig, offline: bool = False) -> int | None:
    """Return the number of a checkpoint's classes, None where its config.json does not say it. Raises ModelError."""
    with suppress(OSError, ValueError):
        config = json.loads(Path(resolve_model(model, offline).folder, "config.json").read_text(encoding="utf-8"))
        labels = config.get("id2label") or config.get("label_names") or ()
        number = len(labels) or config.get("num_labels", config.get("num_classes"))
        return number if isinstance(number, int) else None
    return None


def restriction(model: ModelConfig | None, num_classes: int, offline: bool = False) -> str | None:
    """Return a line where a checkpoint has more classes than the run, None for any other classifier."""
    number = num_outputs(model, offline) if model else None
    if model is None or number is None or number <= num_classes:
        return None
    return (
        f"model {model.name!r} has {number:,} classes, its answers are restricted to the run's {num_classes:,}; "
        "fine-tuned it has these alone"
    )
