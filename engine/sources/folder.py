"""A folder with one sub-folder a class."""

import logging
import os
from collections.abc import Iterator
from functools import cached_property

from engine.errors import SourceError
from engine.runfile.data import FolderSource
from engine.sources.item import SourceItem, local_folder, make_key, read_inside, sort_classes
from engine.wording import name_some

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
OTHER_SUFFIXES = frozenset(
    {".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif", ".tga", ".ico"}
)
IMAGE_SUFFIXES = JPEG_SUFFIXES | OTHER_SUFFIXES

logger = logging.getLogger(__name__)


class FolderImages:
    """Read `root/<class>/**/<image>`; sub-folders of a class are searched, hidden names are not."""

    def __init__(self, config: FolderSource) -> None:
        self.config = config
        self.root = local_folder(config.path)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the class folders."""
        with os.scandir(self.root) as entries:
            folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        for folder in folders:
            if folder.is_symlink():
                raise SourceError(
                    f"{folder.path} is a symlink to a folder, which is not followed: copy the folder, "
                    "or name its images in a CSV with path and label"
                )
        if not folders:
            raise SourceError(
                f"{self.root} has no class folders: expected {self.root}/<class name>/<image>, one folder a class"
            )
        return sort_classes({_text(folder.name) for folder in folders})

    def items(self) -> Iterator[SourceItem]:
        """Yield the images of each class; raise SourceError for a class without any."""
        ignored: list[str] = []
        for label, class_name in enumerate(self.classes):
            empty = True
            for path in _images(self.root, class_name, ignored):
                empty = False
                key = make_key(path)
                yield SourceItem(key=key, split_key=key, label=label, class_name=class_name, locator=path)
            if empty:
                raise SourceError(
                    f"class {class_name!r} is empty: no image in {self.root}/{class_name}; "
                    f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}) or remove the folder"
                )
        if ignored:
            logger.warning(
                "%d files are not images by their names and were left out: %s", len(ignored), name_some(ignored)
            )

    def read(self, item: SourceItem) -> bytes:
        """Return the file's bytes."""
        return read_inside(self.root, item.locator)


def _images(root: str, folder: str, ignored: list[str]) -> Iterator[str]:
    """Yield the relative paths of the images in `folder`, in the file system's order; add other files to `ignored`."""
    stack = [folder]
    while stack:
        parent = stack.pop()
        with os.scandir(os.path.join(root, parent)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = _text(f"{parent}/{entry.name}")
                if entry.is_dir(follow_symlinks=False):
                    stack.append(path)
                elif os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
                    yield path
                else:
                    ignored.append(path)


def _text(name: str) -> str:
    """Return a file name as valid Unicode; a name with replaced characters is rejected when it is read."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
