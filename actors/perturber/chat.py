"""Language models that one can talk to: loaded here, or served elsewhere."""

from contextlib import suppress
from functools import partial
from typing import Protocol

import torch

from actors.language.generation import Ask, Writer
from actors.language.served import ChatServer, ServedTexts, chat
from actors.language.slots import make_writer
from actors.models.attention import set_attention
from actors.models.files import resolve_model
from actors.models.loading import load_tokenizer, load_weights
from actors.models.untyped import Tokenizer
from actors.perturber.prompts import system_prompt
from engine.errors import ModelError
from engine.runfile.fields import ServerConfig
from engine.runfile.perturber import PerturberConfig
from engine.sample import EditKind, Json


class ChatModel(Protocol):
    """Hold the writer of a model, what is recorded of it, and how it is asked."""

    writer: Writer
    provenance: dict[str, Json]

    def ask(self, key: str, kind: EditKind, system: str, user: str, seed: int) -> Ask:
        """Return an ask for the writer: for an edit of a kind, with the two messages of a chat."""
        ...


class LoadedChat:
    """Hold a causal language model with a chat template. Raises ModelError for one that has none."""

    def __init__(self, config: PerturberConfig, device: torch.device, *, offline: bool) -> None:
        from transformers import AutoModelForCausalLM

        self._name = config.chat_model.name
        files = resolve_model(config.chat_model, offline)
        self.tokenizer = load_tokenizer(files)
        if not self.tokenizer.chat_template:
            raise ModelError(f"model {self._name!r} has no chat template: name an instruction-tuned model")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model = load_weights(AutoModelForCausalLM, files, device)
        self.provenance: dict[str, Json] = {
            "model": files.provenance,
            "attention": set_attention(model, config.attention, device),
        }
        self.writer: Writer = make_writer(model, self.tokenizer, config)
        # Of each kind a prompt that begins as all of its kind do.
        self._heads: dict[EditKind, str] = {
            kind: render_chat(
                self.tokenizer, self._name, system_prompt(kind, "thing", own_kinds=config.kinds), "caption"
            )
            for kind in config.asked
            if kind not in config.values
        }

    def ask(self, key: str, kind: EditKind, system: str, user: str, seed: int) -> Ask:
        """Return an ask whose prompt is the chat as the model's template has it."""
        prompt = render_chat(self.tokenizer, self._name, system, user)
        return Ask(key=key, prompt=prompt, seed=seed, head=self._heads[kind])


class ServedChat:
    """Hold a model on a server, which knows its chat template. Raises ModelError where it does not answer."""

    def __init__(self, config: PerturberConfig, server: ServerConfig) -> None:
        on_server = ChatServer(server, config.chat_model.name)
        self.writer: Writer = ServedTexts(on_server, config)
        self.provenance: dict[str, Json] = on_server.provenance

    def ask(self, key: str, kind: EditKind, system: str, user: str, seed: int) -> Ask:
        """Return an ask with the two messages."""
        return Ask(key=key, prompt=user, system=system, seed=seed)


def render_chat(tokenizer: Tokenizer, model_name: str, system: str, user: str) -> str:
    """Return the prompt text; a template that knows no system message gets it at the head of the user's."""
    from jinja2 import TemplateError

    # Templates of models that can think aloud read enable_thinking; the others ignore it.
    render = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    with suppress(TemplateError):
        return str(render(chat(system, user)))
    try:
        return str(render(chat("", f"{system}\n\n{user}")))
    except TemplateError as error:
        raise ModelError(f"the chat template of model {model_name!r} takes no single user message: {error}") from error
