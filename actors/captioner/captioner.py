"""Images to captions: BLIP, Florence-2, chat models that see, and vision encoder-decoders."""

from base64 import b64encode
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from actors.images.codec import UnreadableImageError, decode_rgb, encode_jpeg
from actors.language.answers import BadReply
from actors.language.served import Answer, ChatServer
from actors.models.attention import set_attention
from actors.models.batching import padded_batches, prepared_batches
from actors.models.device import num_readers, precision
from actors.models.files import ModelFiles, resolve_model
from actors.models.loading import load_image_processor, load_processor, load_tokenizer, load_weights, model_errors
from actors.models.token_encoder import give_tokens
from actors.models.untyped import Model, Processor, Tensors, Tokenizer
from engine.errors import RunFileError
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.fields import ServerConfig
from engine.sample import ImageBytes, Json, Rejection, Sample
from engine.shards.tar import image_extension

EMPTY = BadReply(reason="empty_caption", detail="the model answered with no words")
# What a run's own pictures are; others become JPEG on their way to a server.
SENT_AS_THEY_ARE: Mapping[str | None, str] = {".jpg": "image/jpeg", ".png": "image/png"}
JPEG_QUALITY = 95
CHAT_PROMPT = "Describe this photo in one short sentence: the main object, its colour, and where it is."
FLORENCE_TASK = "<CAPTION>"


class Dialect(Protocol):
    """Prepare the inputs of one family of models, and take the captions out of its output."""

    def inputs(self, images: list[Image.Image]) -> Tensors:
        """Return the tensors that `generate` takes, as a mapping with `.to`."""
        ...

    def texts(self, inputs: Tensors, output: torch.Tensor) -> list[str]:
        """Return one caption for each row of generated tokens."""
        ...


class Describer(Protocol):
    """Describe images; `calls` counts the captions that the model was asked for."""

    calls: Counter[str]
    provenance: dict[str, Json]

    def answers(self, images: Sequence[ImageBytes]) -> Iterator[tuple[ImageBytes, str | BadReply]]:
        """Yield each of the encoded images with its caption, or with why it has none."""
        ...


class Captioner:
    """Caption sources that have no caption (all of them with `overwrite`); other samples pass untouched."""

    def __init__(self, config: CaptionerConfig, device: torch.device, *, name: str, offline: bool) -> None:
        self.config, self.name = config, name
        self.model = make_describer(config, device, offline=offline)
        self.calls = self.model.calls

    def __call__(self, batch: Sequence[Sample]) -> Iterator[Sample | Rejection]:
        """Yield each sample, captioned where that was asked for; a Rejection where no caption could be had.

        Sources with the same bytes are one image: it is captioned once.
        """
        wanted = {
            sample.key: sample.image
            for sample in batch
            if sample.role == "source" and (self.config.overwrite or not sample.caption)
        }
        answers = dict(self.model.answers(list(dict.fromkeys(wanted.values()))))
        for sample in batch:
            yield self._result(sample, answers[sample.image]) if sample.key in wanted else sample

    def _result(self, sample: Sample, answer: str | BadReply) -> Sample | Rejection:
        if isinstance(answer, str):
            if caption := " ".join(answer.split()):
                provenance = {**sample.provenance, self.name: self.model.provenance}
                return replace(sample, caption=caption, provenance=provenance)
            answer = EMPTY
        return Rejection.of(sample, stage=self.name, reason=answer.reason, detail=answer.detail)


def make_describer(config: CaptionerConfig, device: torch.device, *, offline: bool) -> Describer:
    """Return the model of a captioner, loaded, or asked on its server."""
    return ServedCaptions(config, config.server) if config.server else LoadedCaptions(config, device, offline)


class LoadedCaptions:
    """Describe images with a model that is loaded here."""

    def __init__(self, config: CaptionerConfig, device: torch.device, offline: bool) -> None:
        self.config, self.device = config, device
        self.calls: Counter[str] = Counter()
        files = resolve_model(config.model, offline)
        self.model, self.dialect = load_captioner(files, config.prompt, device)
        self.provenance: dict[str, Json] = {
            "model": files.provenance,
            "attention": set_attention(self.model, config.attention, device),
        }

    def answers(self, images: Sequence[ImageBytes]) -> Iterator[tuple[ImageBytes, str | BadReply]]:
        """Yield each of the encoded images with its caption, or with why it has none."""
        size = self.config.batch_size
        for batch in prepared_batches(images, size, _read, num_readers(self.config.placement)):
            yield from ((image, found) for image, found in batch if isinstance(found, BadReply))
            readable = [(image, found) for image, found in batch if not isinstance(found, BadReply)]
            for rows, count in padded_batches(readable, size):
                captions = self.captions([pixels for _, pixels in rows])
                self.calls["captions"] += count
                for (image, _), caption in zip(rows[:count], captions[:count], strict=True):
                    yield image, caption

    def captions(self, images: list[Image.Image]) -> list[str]:
        """Return one caption for each image."""
        inputs = self.dialect.inputs(images).to(self.device)
        if self.model.dtype != torch.float32:
            inputs = inputs.to(self.model.dtype)
        with torch.inference_mode(), precision(self.config.model, self.device):
            output = self.model.generate(
                **inputs, max_new_tokens=self.config.max_new_tokens, max_length=None, do_sample=False
            )
        return self.dialect.texts(inputs, output)


class ServedCaptions:
    """Describe images with a model that sees, on a server, which batches them."""

    def __init__(self, config: CaptionerConfig, server: ServerConfig) -> None:
        self._server, self._question = ChatServer(server, config.model.name), config.prompt or CHAT_PROMPT
        self._server.start()
        self._settings: dict[str, Json] = {"max_tokens": config.max_new_tokens, "temperature": 0}
        self.calls: Counter[str] = Counter()
        self.provenance: dict[str, Json] = self._server.provenance

    def answers(self, images: Sequence[ImageBytes]) -> Iterator[tuple[ImageBytes, str | BadReply]]:
        """Yield each of the encoded images with its caption, or with why it has none."""
        for image, answer in self._server.together(deque(images), self._ask):
            if isinstance(answer, BadReply):
                yield image, answer
            else:
                self.calls["captions"] += 1
                yield image, answer.text

    def _ask(self, image: ImageBytes) -> Answer | BadReply:
        _, pixels = _read(image)
        if isinstance(pixels, BadReply):
            return pixels
        kind = SENT_AS_THEY_ARE.get(image_extension(image))
        sent = image if kind else encode_jpeg(np.asarray(pixels), JPEG_QUALITY)
        url = f"data:{kind or 'image/jpeg'};base64,{b64encode(sent).decode()}"
        content: Json = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self._question}]
        return self._server.ask([{"role": "user", "content": content}], self._settings)


def _read(image: ImageBytes) -> tuple[ImageBytes, Image.Image | BadReply]:
    try:
        return image, decode_rgb(image)
    except UnreadableImageError as error:
        return image, BadReply(reason="unreadable_image", detail=str(error))


def load_captioner(files: ModelFiles, prompt: str | None, device: torch.device) -> tuple[Model, Dialect]:
    """Return a model and its dialect, chosen by what the model's own files say it is."""
    from transformers import AutoConfig, AutoModelForImageTextToText, VisionEncoderDecoderModel

    with model_errors(files.name, "a captioner"):
        model_type = AutoConfig.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False).model_type
    if model_type == "vision-encoder-decoder":
        model = load_weights(VisionEncoderDecoderModel, files, device)
        give_tokens(model.encoder)
        return model, PrefixDialect(load_image_processor(files), load_tokenizer(files), prefix=None)
    model = load_weights(AutoModelForImageTextToText, files, device)
    processor = load_processor(files)
    if model_type == "florence2":
        return model, FlorenceDialect(processor, prompt or FLORENCE_TASK)
    if getattr(processor, "chat_template", None):
        return model, ChatDialect(processor, prompt or CHAT_PROMPT)
    return model, PrefixDialect(processor, processor, prompt)


class PrefixDialect:
    """Give pixels and the caption's first words if wanted, get the whole caption: BLIP, GIT, encoder-decoders."""

    def __init__(self, processor: Processor, tokenizer: Tokenizer, prefix: str | None) -> None:
        self.processor, self.tokenizer, self.prefix = processor, tokenizer, prefix

    def inputs(self, images: list[Image.Image]) -> Tensors:
        """Return pixel values, and the prefix's tokens where there is one."""
        text = {} if self.prefix is None else {"text": [self.prefix] * len(images)}
        return self.processor(images=images, **text, return_tensors="pt")

    def texts(self, inputs: Tensors, output: torch.Tensor) -> list[str]:
        """Return the decoded rows; the prefix is part of the caption."""
        return list(self.tokenizer.batch_decode(output, skip_special_tokens=True))


class FlorenceDialect:
    """Give pixels and a task token, get text: Florence-2."""

    def __init__(self, processor: Processor, task: str) -> None:
        self.processor, self.task = processor, task
        answers = processor.tasks_answer_post_processing_type
        if answers.get(task) != "pure_text":
            known = sorted(name for name in answers if answers[name] == "pure_text")
            raise RunFileError(
                f"captioner prompt {task!r} is no task of Florence-2 that answers in words: use one of {known}"
            )

    def inputs(self, images: list[Image.Image]) -> Tensors:
        """Return pixel values and the task's tokens."""
        return self.processor(images=images, text=[self.task] * len(images), return_tensors="pt")

    def texts(self, inputs: Tensors, output: torch.Tensor) -> list[str]:
        """Return the answers, which are words alone: no rule of the processor's post_processor_config is needed."""
        answers = list(self.processor.batch_decode(output, skip_special_tokens=False))
        for token in self.processor.tokenizer.all_special_tokens:
            answers = [answer.replace(token, "") for answer in answers]
        return answers


class ChatDialect:
    """Give a user message of an image and a question, get the answer: LLaVA, Qwen-VL, SmolVLM and others."""

    def __init__(self, processor: Processor, question: str) -> None:
        self.processor, self.question = processor, question
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token_id is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    def inputs(self, images: list[Image.Image]) -> Tensors:
        """Return the tensors of one conversation for each image, padded on the left."""
        content = [{"type": "image"}, {"type": "text", "text": self.question}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return self.processor(
            images=[[image] for image in images],
            text=[prompt] * len(images),
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
        )

    def texts(self, inputs: Tensors, output: torch.Tensor) -> list[str]:
        """Return what follows the prompt."""
        answers = output[:, inputs["input_ids"].shape[1] :]
        return list(self.processor.batch_decode(answers, skip_special_tokens=True))
