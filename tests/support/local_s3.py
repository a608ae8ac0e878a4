"""An S3 server on this machine that answers some requests with errors instead."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}, it says</Message></Error>"
BUCKET = "forge"


class Faults:
    """Say what the next requests are answered with; count those that came, by method."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self._next: list[tuple[int, str]] = []

    def set(self, status: int, code: str, times: int) -> None:
        """Answer the next requests with an error of S3, such as 503 SlowDown, and count anew."""
        self._next = [(status, code)] * times
        self.requests.clear()

    def take(self, method: str) -> tuple[int, str] | None:
        """Return the error for a request, None where the server is to answer."""
        self.requests[method] += 1
        return self._next.pop(0) if self._next else None


@contextmanager
def faulty_s3() -> Iterator[tuple[str, Faults]]:
    """Start a server and yield the URI of a run directory in it, and what goes wrong there."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    faults, server = Faults(), DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        if (fault := faults.take(environ["REQUEST_METHOD"])) is None:
            return server(environ, start_response)
        status, code = fault
        if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", ""):
            environ["wsgi.input"].read()
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(f"{status} {code}", [("Content-Type", "application/xml")])
        return [ERROR.format(code=code).encode()]

    listener = make_server("127.0.0.1", 0, answer, threaded=True)
    thread = Thread(target=listener.serve_forever)
    thread.start()
    try:
        host = f"127.0.0.1:{listener.port}"
        # The servers of one process share what they store.
        urlopen(Request(f"http://{host}/moto-api/reset", method="POST")).close()
        urlopen(Request(f"http://{host}/{BUCKET}", method="PUT")).close()
        yield f"s3://key:secret@{BUCKET}/runs/one?scheme=http&endpoint_override={host}&region=us-east-1", faults
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


@contextmanager
def local_s3() -> Iterator[str]:
    """Start a server in which nothing goes wrong and yield the URI of a run directory in it."""
    with faulty_s3() as (root, _):
        yield root
