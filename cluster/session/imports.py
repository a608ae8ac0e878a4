"""Where Python imports from: our packages, then installed ones, then the user's folders; here and in Ray's workers."""

import importlib
import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cluster.session.threads import share_cores

ROOT = str(Path(__file__).resolve().parents[2])
# The user's folders, for workers: on PYTHONPATH they would come before installed packages.
FOLDERS = "COUNTERFORGE_FOLDERS"
HOOK = "cluster.session.imports.prepare_worker"


def own_packages_first() -> None:
    """Import our packages from here, and let the current folder come last.

    A checkout of another project may be the current folder, with an engine.py or datasets/ of its own. `python -m`, or
    an empty entry of PYTHONPATH, puts it in front.
    """
    with suppress(FileNotFoundError):  # a current folder that was deleted
        here = os.getcwd()
        if here != ROOT and any(_is(folder, here) for folder in sys.path):
            sys.path[:] = [*(folder for folder in sys.path if not _is(folder, here)), here]
    sys.path.insert(0, ROOT)
    try:
        for name in ("engine", "actors", "cluster"):
            importlib.import_module(name)
    finally:
        sys.path.remove(ROOT)


def prepare_worker() -> None:
    """Let a worker import what its driver can, in the same order; Ray calls this when the worker starts."""
    share_cores()
    own_packages_first()
    folders = os.environ.get(FOLDERS, "").split(os.pathsep)
    sys.path += [folder for folder in folders if folder and folder not in sys.path]


def worker_environment() -> Mapping[str, str]:
    """Return PYTHONPATH for workers, and the folders that `prepare_worker` appends to sys.path there."""
    here = os.getcwd()
    installed = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    kept = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder and not _is(folder, here)]
    # An installed wheel is found as it is: in front of the standard library its neighbours might hide parts of that.
    path = dict.fromkeys([*([] if ROOT in installed else [ROOT]), *map(os.path.abspath, kept)])
    library = os.path.join(sysconfig.get_path("stdlib"), "")
    others = [os.path.abspath(folder) for folder in sys.path if os.path.isdir(folder or ".")]
    added = [each for each in others if each not in {*installed, *path} and not each.startswith(library)]
    return {"PYTHONPATH": os.pathsep.join(path), FOLDERS: os.pathsep.join(dict.fromkeys(added))}


def _is(folder: str, here: str) -> bool:
    return os.path.abspath(folder) == here
