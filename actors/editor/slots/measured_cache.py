"""On-disk cache of benchmark results, keyed by kind of machine; shared by all processes that see the folder."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.errors import ModelError
from engine.sample import Json

LOG = logging.getLogger(__name__)


def remembered(folder: Path, question: str, about: Mapping[str, Json], measure: Callable[[], Json]) -> Json:
    """Return the cached result of `measure` for a question and its subject `about`; run and store it on first use.

    Of processes that measure at the same time, the first to finish decides for all. A file names its question and its
    subject, so that it can be read, copied to other machines, or deleted to have it measured again.
    """
    record = {"question": question, "about": dict(about)}
    digest = hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=8).hexdigest()
    path = folder / f"{question}-{digest}.json"
    if not path.exists():
        answer = measure()
        _write_first(path, json.dumps({**record, "answer": answer}, indent=2) + "\n")
        LOG.info("%s: measured %s, kept in %s", question, answer, path)
    try:
        found: Json = json.loads(path.read_text())["answer"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} holds no answer ({error}): delete it, and it is measured again") from error
    return found


def _write_first(path: Path, text: str) -> None:
    """Write a file whole, unless another process has by now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
        file.write(text)
    try:
        os.link(file.name, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(file.name)
