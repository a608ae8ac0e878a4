"""The audit of what is installed: it fails for a known vulnerability, and says so where it could not look."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from repository import ROOT

SCRIPT = ROOT / ".ci" / "audit.py"
FLAW = {
    "id": "PYSEC-1",
    "modified": "2026-01-01T00:00:00Z",
    "published": "2026-01-01T00:00:00Z",
    "summary": "it is made up",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "99.0"}]}],
        }
    ],
}


@contextmanager
def service(flawed: str, status: int = 200) -> Iterator[str]:
    """Answer as osv.dev does: one package has a flaw, the others have none."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": [FLAW]} if asked["package"]["name"] == flawed else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def audit(packages: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Audit the packages of a folder with a service."""
    command = [sys.executable, str(SCRIPT), "--path", str(packages), "-s", "osv", "--osv-url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def install(folder: Path) -> Path:
    for name, version in (("jinja2", "3.1.6"), ("ninja", "1.13.2")):
        metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def test_a_known_vulnerability_fails_and_is_named_with_what_mends_it(tmp_path: Path) -> None:
    with service("jinja2") as url:
        done = audit(install(tmp_path), url)
    assert done.stdout == ("jinja2 3.1.6: PYSEC-1, mended in 99.0\naudit: 1 known vulnerabilities in 2 packages\n"), (
        done.stderr
    )
    assert done.returncode == 1


def test_none_known_is_said_with_the_number_of_packages(tmp_path: Path) -> None:
    with service("nothing") as url:
        done = audit(install(tmp_path), url)
    assert (done.returncode, done.stdout) == (0, "audit: no known vulnerabilities in 2 packages\n"), done.stderr


def test_a_service_that_does_not_answer_fails_nothing_and_is_said(tmp_path: Path) -> None:
    install(tmp_path)
    with service("nothing", status=503) as url:
        refused = audit(tmp_path, url)
    gone = audit(tmp_path, url)
    for done in (refused, gone):
        assert done.returncode == 0
        assert done.stdout.startswith("audit: NOT CHECKED, pip-audit has no result")


def test_packages_that_the_service_does_not_know_are_told() -> None:
    """As pip-audit reports them where pypi.org's records are not to be had: with exit code 0."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    unknown = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}
    flaw = {"id": "PYSEC-1", "fix_versions": ["99.0"]}
    flawed = {"name": "jinja2", "version": "3.1.6", "vulns": [flaw]}
    assert module.report([unknown]) == ["audit: NOT CHECKED, the service knows none of the 1 packages"]
    assert module.report([unknown, {**flawed, "vulns": []}]) == [
        "audit: no known vulnerabilities in 1 packages; not checked, for it does not know them: torch"
    ]
    assert module.report([unknown, flawed]) == [
        "jinja2 3.1.6: PYSEC-1, mended in 99.0",
        "audit: 1 known vulnerabilities in 1 packages; not checked, for it does not know them: torch",
    ]
