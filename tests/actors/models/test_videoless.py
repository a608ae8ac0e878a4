"""Processors without their video processor: every kind of transformers keeps its other parts, in its own order."""

import pytest
import transformers
from tiny_models import text_tokenizer

from actors.models.videoless import _without_video


@pytest.mark.parametrize(
    "name",
    [
        "Qwen3VLProcessor",  # pictures, texts, videos
        "VideoLlavaProcessor",  # pictures, videos, texts
        "Gemma4Processor",  # sounds, pictures, texts, videos, handed on by name
    ],
)
def test_a_processor_keeps_its_other_parts(name: str) -> None:
    kind = getattr(transformers, name)
    videoless = _without_video(kind)
    wanted = [part for part in kind.get_attributes() if part != "video_processor"]
    assert videoless.get_attributes() == wanted
    marks = ["<image>", "<audio>", "<boi>", "<eoi>", "<boa>", "<eoa>"]
    names = zip(("image", "audio", "boi", "eoi", "boa", "eoa"), marks, strict=True)
    tokenizer = text_tokenizer(marks, **{f"{name}_token": mark for name, mark in names})
    parts = {
        "feature_extractor": transformers.WhisperFeatureExtractor(),
        "image_processor": transformers.Qwen2VLImageProcessorPil(),
        "tokenizer": tokenizer,
    }
    facts = {"video_processor": {"video_processor_type": "VideoProcessor"}}
    processor = videoless.from_args_and_dict([parts[part] for part in wanted], facts)
    assert [getattr(processor, part) for part in wanted] == [parts[part] for part in wanted]
    assert isinstance(processor, kind)
    assert type(processor).__name__ == name
    assert not hasattr(processor, "video_processor")
