"""A folder with one sub-folder a class."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from engine.errors import SourceError
from engine.names import nfc
from engine.runfile.data import FolderSource
from engine.sources.item import SourceItem, local_folder, make_key, read_inside
from engine.sources.labels import sort_classes
from engine.wording import name_some

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
OTHER_SUFFIXES = frozenset(
    {".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif", ".tga", ".ico"}
)
IMAGE_SUFFIXES = JPEG_SUFFIXES | OTHER_SUFFIXES
# Pictures in formats that are not read.
UNREAD_SUFFIXES = frozenset({
    ".heic", ".heif", ".jxl", ".jxr", ".jpf", ".jpx", ".j2k", ".psd", ".svg", ".exr", ".hdr", ".pbm", ".pnm", ".dib",
    ".dcm", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".apng", ".pcx", ".fits",
})  # fmt: skip
# Folders of operating systems: copies, thumbnails, waste.
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
SPLIT_NAMES = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"))


class FolderImages:
    """Read `root/<class>/**/<image>`; sub-folders of a class are searched, hidden names are not.

    Class folders whose names are one in NFC are one class.
    """

    def __init__(self, config: FolderSource) -> None:
        self.config = config
        self.root = local_folder(config.path)
        self.notes: list[str] = []

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the class folders."""
        return sort_classes(self._by_class)

    def items(self) -> Iterator[SourceItem]:
        """Yield the images of each class; raise SourceError for a class without any."""
        ignored: list[str] = []
        for label, class_name in enumerate(self.classes):
            empty, before = True, len(ignored)
            for folder in self._by_class[class_name]:
                for path in _images(self.root, folder, ignored):
                    empty = False
                    key = make_key(path)
                    yield SourceItem(key=key, split_key=key, label=label, class_name=class_name, locator=path)
            if empty:
                others = f"; it has {_few(ignored[before:])}" if len(ignored) > before else ""
                raise SourceError(
                    f"class {class_name!r} is empty: no image in {self.root}/{class_name}; "
                    f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}) or remove the folder{others}"
                )
        self.notes = list(self._remarks(ignored))

    def read(self, item: SourceItem) -> bytes:
        """Return the file's bytes."""
        return read_inside(self.root, item.locator)

    @cached_property
    def _content(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return the names of the class folders and of the images beside them."""
        folders, images = [], []
        with os.scandir(self.root) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                    continue
                if not entry.is_dir():
                    if _suffix(entry.name) in IMAGE_SUFFIXES | UNREAD_SUFFIXES:
                        images.append(_text(entry.name))
                    continue
                if entry.is_symlink():
                    raise SourceError(
                        f"{entry.path} is a symlink to a folder, which is not followed: copy the folder, "
                        "or name its images in a CSV with path and label"
                    )
                folders.append(entry.name)
        if not folders:
            raise SourceError(
                f"{self.root} has no class folders: expected {self.root}/<class name>/<image>, one folder a class"
            )
        folders.sort()
        if SPLIT_NAMES.issuperset(map(str.lower, folders)) and all(map(self._holds_folders, folders)):
            raise SourceError(
                f"{self.root} holds {name_some(folders)}, which are splits and no classes: name one of them, "
                f"such as {self.root}/{folders[0]}"
            )
        return folders, images

    @cached_property
    def _by_class(self) -> dict[str, list[str]]:
        by_class: dict[str, list[str]] = {}
        for folder in self._content[0]:
            by_class.setdefault(nfc(_text(folder)), []).append(folder)
        return by_class

    def _holds_folders(self, folder: str) -> bool:
        """Return whether a folder has sub-folders and no image beside them."""
        with os.scandir(os.path.join(self.root, folder)) as entries:
            kinds = {entry.is_dir() for entry in entries if entry.is_dir() or _suffix(entry.name) in IMAGE_SUFFIXES}
        return kinds == {True}

    def _remarks(self, ignored: Sequence[str]) -> Iterator[str]:
        folders, images = self._content
        if images:
            yield f"{len(images)} images in {self.root} itself are in no class folder and were left out: {_few(images)}"
        if len(folders) == 1 and self._holds_folders(folders[0]):
            yield f"the only class is {folders[0]!r}, which holds folders: are these the classes? Then name it as path"
        for name, forms in self._by_class.items():
            if len(forms) > 1:
                yield f"{len(forms)} class folders are called {name!r}, in different Unicode forms: they are one class"
        unread = [name for name in ignored if _suffix(name) in UNREAD_SUFFIXES]
        if unread:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in Counter(map(_suffix, unread)).most_common())
            yield f"{len(unread)} pictures have formats that are not read ({counts}) and were left out: {_few(unread)}"
        links = [name for name in ignored if name.endswith("/")]
        if links:
            yield f"{len(links)} links to folders are not followed and were left out: {_few(links)}"
        others = sorted(set(ignored) - {*unread, *links})
        if others:
            yield f"{len(others)} files are not images by their names and were left out: {_few(others)}"


def _few(names: Iterable[str]) -> str:
    return name_some(sorted(names))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _images(root: str, folder: str, ignored: list[str]) -> Iterator[str]:
    """Yield the relative paths of the images in `folder`, in the file system's order; add other files to `ignored`."""
    stack = [folder]
    while stack:
        parent = stack.pop()
        with os.scandir(os.path.join(root, parent)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = f"{parent}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in SYSTEM_FOLDERS:
                        stack.append(path)
                elif _suffix(path) in IMAGE_SUFFIXES:
                    yield _text(path)
                else:
                    ignored.append(_text(path) + "/" * entry.is_dir())


def _text(name: str) -> str:
    """Return a file name as valid Unicode; a name with replaced characters is rejected when it is read."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
