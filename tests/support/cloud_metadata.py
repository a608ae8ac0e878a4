"""The metadata services of EC2 and Compute Engine as far as a spot machine asks them, on this machine."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class CloudMetadata(ThreadingHTTPServer):
    """Hold what the cloud says now, which tokens it knows, and how often it was asked and answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.action: str | None = None
        self.preempted = "FALSE"
        self.tokens: set[str] = set()
        self.num_tokens = self.num_looks = 0

    def give_notice(self, time: str) -> None:
        """Say that the machine goes."""
        self.action = json.dumps({"action": "terminate", "time": time})


class _Handler(BaseHTTPRequestHandler):
    server: CloudMetadata

    def do_PUT(self) -> None:
        if (
            self.path != "/latest/api/token"
            or not self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "").isdigit()
        ):
            return self._answer(400)
        self.server.num_tokens += 1
        token = f"token-{self.server.num_tokens}"
        self.server.tokens.add(token)
        return self._answer(200, token)

    def do_GET(self) -> None:
        match self.path:
            case "/latest/meta-data/spot/instance-action":
                if self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens:
                    return self._answer(401)
                self.server.num_looks += 1
                return self._answer(404) if self.server.action is None else self._answer(200, self.server.action)
            case "/computeMetadata/v1/instance/preempted":
                if self.headers.get("Metadata-Flavor") != "Google":
                    return self._answer(403)
                self.server.num_looks += 1
                return self._answer(200, self.server.preempted)
            case _:
                return self._answer(404)

    def _answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def cloud_metadata() -> Iterator[CloudMetadata]:
    """Serve until the block ends."""
    with CloudMetadata() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
