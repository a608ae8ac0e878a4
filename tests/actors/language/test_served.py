"""Models on a server: one that runs, transformers' own, and one that has every trouble that a server can have."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread

import pytest
import requests
import torch
from tiny_models import jpeg, save_chat_captioner
from waiting import free_port, wait_until

from actors.captioner.captioner import Captioner
from actors.models.device import fix_threads
from actors.models.files import resolve_model
from actors.perturber.perturber import Perturber
from engine.errors import ModelError, ModelUnavailableError
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.fields import ModelConfig, ServerConfig
from engine.runfile.perturber import PerturberConfig
from engine.sample import Rejection, Sample

CPU = torch.device("cpu")
ZOO = ModelConfig(name="zoo/perturber")
CAPTION = "a photo of a red coat on grass"
ANSWER = (
    '{"before": "grass", "after": "snow", "caption": "a photo of a red coat on snow", "instruction": "put it on snow"}'
)
Reply = tuple[int, object]
NOTHING: Mapping[str, object] = {}


def source(key: str, caption: str = CAPTION, image: bytes = b"") -> Sample:
    return Sample(
        key=key, source_key=key, role="source", image=image, label=0, class_name="coat", split="train", caption=caption
    )


def perturber(
    url: str, model: str = "served", *, server: Mapping[str, object] = NOTHING, **changes: object
) -> Perturber:
    settings = {"edits": {"background": 1}, "retries": 0, **changes}
    config = PerturberConfig(model=ModelConfig(name=model), server=ServerConfig(url=url, **server), **settings)
    return Perturber(config, CPU, name="perturber", seed=7, offline=True)


# --- a server that runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers_server() -> Iterator[str]:
    """Yield the url of `transformers serve`, which loads whatever model of the disk is asked for."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--device", "cpu", "--port", str(port)]
    with subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}) as process:
        try:
            wait_until(lambda: process.poll() is None and _is_up(port), within_s=120)
            yield f"http://localhost:{port}/v1"
        finally:
            process.terminate()


def _is_up(port: int) -> bool:
    try:
        return requests.get(f"http://localhost:{port}/health", timeout=1).ok
    except requests.ConnectionError:
        return False


@pytest.mark.slow
def test_a_served_language_model_gives_edits(transformers_server: str) -> None:
    # It draws where the model's own settings say so, whatever the temperature.
    draws = {"extra": {"generation_config": '{"do_sample": true}'}}
    model = resolve_model(ZOO, offline=True).folder
    stage = perturber(transformers_server, model, server=draws, edits={"background": 2, "colour": 1}, retries=3)
    results = list(stage([source("s0"), source("s1", "a photo of a blue coat on sand")]))
    assert [item.key for item in results] == [
        f"{key}{end}" for key in ("s0", "s1") for end in ("", "_placebo", "_cf00", "_cf01", "_cf02")
    ]
    edits = [item.edit for item in results if isinstance(item, Sample) and item.role == "counterfactual"]
    assert len(edits) == 6
    assert [edit.kind for edit in edits] == ["background", "background", "colour"] * 2
    assert edits[0].before == "grass"
    assert edits[0].after != edits[1].after
    assert results[2].provenance["perturber"]["model"]["served"] is True
    assert stage.calls["texts"] >= 6
    assert stage.calls["useful_tokens"] > 100


@pytest.mark.slow
def test_a_served_model_that_sees_captions_as_it_does_when_it_is_loaded_here(
    transformers_server: str, tmp_path: Path
) -> None:
    fix_threads(1)
    model = ModelConfig(name=str(save_chat_captioner(tmp_path)))
    settings = {"model": model, "max_new_tokens": 6, "prompt": "a photo of"}
    samples = [source(f"s{seed}", "", jpeg(seed=seed)) for seed in range(3)]
    here, there = (
        list(Captioner(CaptionerConfig(**settings, **where), CPU, name="captioner", offline=True)(samples))
        for where in ({}, {"server": ServerConfig(url=transformers_server)})
    )
    assert [item.caption for item in there] == [item.caption for item in here]


# --- a server that has every trouble ----------------------------------------------------------------------------------


class Scripted:
    """Answer each request with what a function makes of it; what was asked is in `requests`, by its time."""

    def __init__(self, reply: Callable[[dict], Reply]) -> None:
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                scripted.requests.append(body)
                scripted.headers.append(dict(self.headers))
                status, answer = reply(body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[dict], Reply]], Scripted]]:
    monkeypatch.setattr("actors.language.served.BACKOFF_S", 0.01)
    begun: list[Scripted] = []

    def begin(reply: Callable[[dict], Reply]) -> Scripted:
        begun.append(Scripted(reply))
        return begun[-1]

    yield begin
    for each in begun:
        each.server.shutdown()
        each.server.server_close()


def said(text: str | None = ANSWER) -> Reply:
    message = {"role": "assistant", "content": text}
    return 200, {"choices": [{"message": message}], "usage": {"prompt_tokens": 50, "completion_tokens": 20}}


def is_check(request: dict) -> bool:
    return request["max_tokens"] == 1


def user_text(request: dict) -> str:
    return str(request["messages"][-1]["content"])


def candidate(results: Sequence[Sample | Rejection]) -> Sample | Rejection:
    (found,) = [item for item in results if "_cf" in item.key]
    return found


def test_what_is_asked_says_model_messages_seed_and_what_is_extra(
    scripted: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-tests")
    server = scripted(lambda _: said())
    stage = perturber(
        server.url, server={"extra": {"chat_template_kwargs": {"enable_thinking": False}}}, max_new_tokens=77
    )
    (found,) = [item for item in stage([source("s0")]) if "_cf" in item.key]
    assert isinstance(found, Sample)
    assert found.edit.after == "snow"
    request = server.requests[-1]
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert "one JSON object" in request["messages"][0]["content"]
    assert user_text(request) == f"caption: {CAPTION}\nclass: coat\nchange: background"
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("served", 77, 1.0)
    assert request["chat_template_kwargs"] == {"enable_thinking": False}
    assert 0 <= request["seed"] < 2**31
    assert server.headers[-1]["Authorization"] == "Bearer a-key-of-tests"
    assert stage.calls == {"texts": 1, "prompts": 1, "tokens": 70, "useful_tokens": 70}


def test_requests_are_under_way_together_and_no_more_than_allowed(scripted: Callable) -> None:
    together = Barrier(4, timeout=20)

    def reply(request: dict) -> Reply:
        # Broken where four never meet; a fifth would meet nobody.
        if not is_check(request):
            together.wait()
        return said()

    stage = perturber(scripted(reply).url, server={"num_requests": 4})
    results = list(stage([source(f"s{number}") for number in range(8)]))
    assert len([item for item in results if isinstance(item, Sample) and "_cf" in item.key]) == 8


def test_a_server_that_is_busy_is_asked_again(scripted: Callable) -> None:
    troubles = [429, 503, 500]

    def reply(request: dict) -> Reply:
        return said() if is_check(request) or not troubles else (troubles.pop(), "later")

    assert isinstance(candidate(list(perturber(scripted(reply).url)([source("s0")]))), Sample)
    assert not troubles


def test_a_server_that_goes_away_is_waited_for_and_then_named(
    scripted: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.language.served.NUM_RETRIES", 4)
    server = scripted(lambda request: said() if is_check(request) else (503, "loading"))
    stage = perturber(server.url)
    with pytest.raises(ModelUnavailableError, match=r"model 'served' on .*503.*loading"):
        list(stage([source("s0")]))
    assert len([request for request in server.requests if not is_check(request)]) == 5


def test_one_request_that_the_server_refuses_costs_one_candidate(scripted: Callable) -> None:
    def reply(request: dict) -> Reply:
        return (400, {"error": {"message": "too long for the context"}}) if "sand" in user_text(request) else said()

    stage = perturber(scripted(reply).url)
    results = list(stage([source("s0"), source("s1", "a red coat on sand"), source("s2")]))
    (refused,) = [item for item in results if isinstance(item, Rejection)]
    assert (refused.key, refused.reason) == ("s1_cf00", "server_refused")
    assert "too long for the context" in refused.detail
    assert len(results) == 9


@pytest.mark.parametrize("text", [None, "no JSON"])
def test_an_answer_without_an_edit_is_a_rejection_and_asked_again(scripted: Callable, text: str | None) -> None:
    server = scripted(lambda _: said(text))
    found = candidate(list(perturber(server.url, retries=2)([source("s0")])))
    assert isinstance(found, Rejection)
    assert found.reason == "reply_not_json"
    asked = [request for request in server.requests if not is_check(request)]
    assert len({request["seed"] for request in asked}) == len(asked) == 3


def test_a_model_that_takes_no_system_message_gets_it_from_the_user(scripted: Callable) -> None:
    def reply(request: dict) -> Reply:
        return (400, "System role not supported") if len(request["messages"]) > 1 else said()

    server = scripted(reply)
    assert isinstance(candidate(list(perturber(server.url)([source("s0")]))), Sample)
    assert user_text(server.requests[-1]).startswith("You invent one small change")
    assert user_text(server.requests[-1]).endswith("change: background")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"no key", r"answers 401: no key.*OPENAI_API_KEY"),
        (404, b"no such model", r"model 'served' on http.*answers 404: no such model.*served by that name"),
        (422, b"unexpected field", r"refuses a request of one token: 422: unexpected field.*`extra`"),
        (200, b"<html>a proxy</html>", r"does not answer as OpenAI's API does.*a proxy"),
        (200, {"choices": []}, r"does not answer as OpenAI's API does"),
    ],
)
def test_a_server_that_does_not_answer_ends_the_stage_before_it_begins(
    scripted: Callable, status: int, body: object, message: str
) -> None:
    server = scripted(lambda _: (status, body))
    with pytest.raises(ModelError, match=message):
        perturber(server.url)


def test_a_server_that_is_not_there_is_named_with_the_remedy() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(
        ModelUnavailableError, match=rf"model 'served' on {url} cannot be reached \(.*refused\).*vllm serve served"
    ):
        perturber(url)


def test_an_image_that_cannot_be_read_is_not_sent(scripted: Callable) -> None:
    server = scripted(lambda _: said("a red coat\non grass"))
    config = CaptionerConfig(model=ModelConfig(name="served"), server=ServerConfig(url=server.url))
    stage = Captioner(config, CPU, name="captioner", offline=True)
    good, bad = stage([source("s0", "", jpeg()), source("s1", "", b"no image")])
    assert isinstance(good, Sample)
    assert good.caption == "a red coat on grass"
    assert isinstance(bad, Rejection)
    assert bad.reason == "unreadable_image"
    (image, question) = server.requests[-1]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert base64.b64decode(image["image_url"]["url"].partition(",")[2]) == jpeg()
    assert "Describe this photo" in question["text"]
    assert stage.calls == {"captions": 1}


def test_a_url_without_its_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin with http"):
        ServerConfig(url="gpu-7:8000/v1")
