"""Which of many files do not exist: each folder is listed once, so that a million names stay cheap."""

import os
from collections import defaultdict
from collections.abc import Iterable

# For fewer files of a folder, each is looked for.
LISTED_FROM = 64


def absent_files(root: str, names: Iterable[str]) -> set[str]:
    """Return those of these relative paths that are no files below `root`."""
    folders: dict[str, set[str]] = defaultdict(set)
    for name in names:
        folder, slash, base = name.rpartition("/")
        folders[folder + slash].add(base)
    absent: set[str] = set()
    for folder, wanted in folders.items():
        path = os.path.join(root, folder)
        # Looked for once more: a file system that ignores case lists another name than it answers to.
        left = wanted - _files_in(path, wanted) if len(wanted) >= LISTED_FROM else wanted
        absent.update(folder + base for base in left if not os.path.isfile(path + base))
    return absent


def _files_in(folder: str, wanted: set[str]) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.name in wanted and entry.is_file()}
    except (OSError, ValueError):
        return set()
