"""Processors of transformers that read pictures and videos, without their video processor, which needs torchvision."""

import json
from pathlib import Path
from typing import Any

from actors.models.untyped import Processor

VIDEO = "video_processor"


def videoless_processor(folder: Path) -> Processor | None:
    """Return the class of a saved processor, without videos; None where it reads none."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    facts: dict[str, str] = {}
    for part in ("config", "tokenizer_config", "preprocessor_config", "processor_config"):
        if (path := folder / f"{part}.json").is_file():
            facts |= json.loads(path.read_text(encoding="utf-8"))
    name = facts.get("processor_class") or PROCESSOR_MAPPING_NAMES.get(facts.get("model_type"), "")
    kind: Processor = getattr(transformers, str(name), None)
    is_known = isinstance(kind, type) and issubclass(kind, transformers.ProcessorMixin)
    return _without_video(kind) if is_known and VIDEO in kind.get_attributes() else None


def _without_video(kind: Processor) -> Processor:
    from transformers import ProcessorMixin

    parts: list[str] = kind.get_attributes()
    place = parts.index(VIDEO)

    class Mixin(ProcessorMixin):  # type: ignore[misc]  # shipped without types
        """Stand between a processor and its mixin, which checks the type of every part, and leave the videos out."""

        def __init__(self, *given: Processor, **settings: Any) -> None:  # noqa: ANN401  # whatever a processor has
            named = {**dict(zip(parts, given, strict=False)), **settings}
            named.pop(VIDEO)
            super().__init__(**named)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in parts if part != VIDEO]

    class Videoless(kind, Mixin):  # type: ignore[misc]  # known when it runs
        get_attributes = Mixin.get_attributes

        @classmethod
        def from_args_and_dict(cls, args: list[Any], facts: dict[str, Any], **settings: Any) -> Processor:  # noqa: ANN401
            known = {name: value for name, value in facts.items() if name != VIDEO}
            return super().from_args_and_dict([*args[:place], None, *args[place:]], known, **settings)

    # diffusers and transformers go by a class's name and module.
    Videoless.__name__ = Videoless.__qualname__ = kind.__name__
    Videoless.__module__ = kind.__module__
    return Videoless
