"""A model behind a server with the API of OpenAI: vLLM, SGLang, Ray Serve, `transformers serve` and others have it."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from actors.language.answers import BadReply
from actors.language.generation import Ask
from engine.errors import ModelError, ModelUnavailableError
from engine.runfile.fields import ServerConfig
from engine.runfile.perturber import PerturberConfig
from engine.sample import Json

# Two minutes and a half altogether: as long as a server takes to start again. At the start its url may be wrong.
NUM_RETRIES, BACKOFF_S, MAX_BACKOFF_S = 10, 0.5, 30
NUM_RETRIES_AT_START = 2
# An answer that did not come in time comes no sooner the fifth time.
NUM_READS = 2
BUSY = (408, 429, 500, 502, 503, 504)
# The server takes no such request from us, or takes this one request from nobody.
NOT_OURS, NOT_THIS = (401, 403, 404), (400, 413, 422)
ONE_TOKEN: Mapping[str, Json] = {"max_tokens": 1}
MAX_DETAIL = 500  # characters of what a server says

Message = Mapping[str, Json]
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Hold a text, and the number of tokens that the server counted in prompt and text together."""

    text: str
    num_tokens: int


class ChatServer:
    """Ask one model on one server, from as many threads as the settings allow requests."""

    def __init__(self, server: ServerConfig, model: str) -> None:
        self.config, self.model = server, model
        self.provenance: dict[str, Json] = {"model": {"name": model, "served": True}}
        self._pool = ThreadPoolExecutor(server.num_requests, thread_name_prefix="served")
        self._session = self._with_retries(NUM_RETRIES_AT_START)

    def _with_retries(self, number: int) -> requests.Session:
        session = requests.Session()
        retry = Retry(
            number, read=NUM_READS, status_forcelist=BUSY, allowed_methods=None, raise_on_status=False,
            backoff_factor=BACKOFF_S, backoff_max=MAX_BACKOFF_S,
        )  # fmt: skip
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=self.config.num_requests, max_retries=retry))
        if key := os.environ.get(self.config.key_variable):
            session.headers["Authorization"] = f"Bearer {key}"
        return session

    def start(self) -> bool:
        """Ask for one token, and say whether a system message may go before the user's.

        Raises ModelError where the server would not answer requests such as ours. From here on it may be away a while.
        """
        has_system = isinstance(self.ask(chat("Be brief.", "Say yes."), ONE_TOKEN), Answer)
        if not has_system and isinstance(answer := self.ask(chat("", "Say yes."), ONE_TOKEN), BadReply):
            raise ModelError(
                f"{self} refuses a request of one token: {answer.detail}: are the name and the server's `extra` right?"
            )
        self._session = self._with_retries(NUM_RETRIES)
        return has_system

    def ask(self, messages: Sequence[Message], settings: Mapping[str, Json]) -> Answer | BadReply:
        """Return the answer to a chat, or why the server takes no such chat.

        Raises ModelUnavailableError where the server is not there for some minutes, ModelError where it takes nothing
        from us.
        """
        request = {"model": self.model, "messages": list(messages), **settings, **self.config.extra}
        try:
            response = self._session.post(
                f"{self.config.url}/chat/completions", json=request, timeout=self.config.timeout_s
            )
        except requests.RequestException as error:
            raise ModelUnavailableError(
                f"{self} cannot be reached ({_cause(error)}): start it, such as with `vllm serve {self.model}`, or "
                "correct its url; the same command goes on from there"
            ) from error
        if response.status_code in NOT_THIS:
            return BadReply(reason="server_refused", detail=_said(response))
        if response.status_code in NOT_OURS:
            raise ModelError(
                f"{self} answers {_said(response)}: is the url right, the model served by that name, and the key in "
                f"{self.config.key_variable} on every machine?"
            )
        try:
            response.raise_for_status()
            return _answer(response.json())
        except (requests.RequestException, ValueError, LookupError, TypeError) as error:
            raise ModelUnavailableError(
                f"{self} does not answer as OpenAI's API does ({type(error).__name__}: {_short(str(error))}), it says "
                f"{_said(response)}: see its log"
            ) from error

    def together(
        self, items: deque[Item], ask: Callable[[Item], Answer | BadReply]
    ) -> Iterator[tuple[Item, Answer | BadReply]]:
        """Take the items out and yield their answers as they come; more may be put in meanwhile."""
        running: dict[Future[Answer | BadReply], Item] = {}
        try:
            while items or running:
                while items and len(running) < self.config.num_requests:
                    item = items.popleft()
                    running[self._pool.submit(ask, item)] = item
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()

    def __str__(self) -> str:
        """Return the model and where it is, as messages name it."""
        return f"model {self.model!r} on {self.config.url}"


class ServedTexts:
    """Write texts with a server, which batches what is under way as it likes: no seed makes its texts come again."""

    def __init__(self, server: ChatServer, config: PerturberConfig) -> None:
        self._server, self._has_system = server, server.start()
        self._settings: dict[str, Json] = {"max_tokens": config.max_new_tokens, "temperature": config.temperature}
        self.calls: Counter[str] = Counter()

    def texts(self, asks: deque[Ask]) -> Iterator[tuple[Ask, str | BadReply]]:
        """Take the asks out and yield their texts as they come; more may be put in meanwhile."""
        for ask, answer in self._server.together(asks, self._ask):
            if isinstance(answer, BadReply):
                yield ask, answer
            else:
                tokens = answer.num_tokens
                self.calls += Counter(texts=1, prompts=1, tokens=tokens, useful_tokens=tokens)
                yield ask, answer.text

    def _ask(self, ask: Ask) -> Answer | BadReply:
        messages = chat(ask.system, ask.prompt) if self._has_system else chat("", f"{ask.system}\n\n{ask.prompt}")
        # OpenAI's seeds have 64 bits, those of others 32.
        return self._server.ask(messages, {**self._settings, "seed": ask.seed % 2**31})


def chat(system: str, user: str) -> list[Message]:
    """Return the messages of a chat, the user's alone where there is nothing that the system says."""
    said: list[Message] = [{"role": "user", "content": user}]
    return [{"role": "system", "content": system}, *said] if system else said


def _answer(body: Any) -> Answer:  # noqa: ANN401 JSON from outside
    usage = body.get("usage") or {}
    return Answer(
        # None where a model has thought until its tokens were used up.
        text=str(body["choices"][0]["message"]["content"] or ""),
        num_tokens=int(usage.get("prompt_tokens", 0)) + int(usage.get("completion_tokens", 0)),
    )


def _cause(error: requests.RequestException) -> str:
    """Return what urllib3 says in the end, without how often it tried what."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return _short(str(cause).partition(": ")[2] or str(cause) or type(error).__name__)


def _said(response: requests.Response) -> str:
    return f"{response.status_code}: {_short(response.text)}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_DETAIL else f"{line[:MAX_DETAIL]}..."
