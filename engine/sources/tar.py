"""WebDataset tars, indexed once: a sample is read by one seek."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from engine.errors import SourceError
from engine.runfile.data import TarSource
from engine.sources.folder import IMAGE_SUFFIXES
from engine.sources.item import (
    SourceItem,
    UnreadableItemError,
    check_size,
    local_folder,
    make_key,
    name_class,
    sort_classes,
)
from engine.sources.tar_index import Member, members
from engine.untrusted_json import loads_outside
from engine.wording import name_some

PICKLES = frozenset({"pickle", "pkl", "pyd", "pth", "pt", "npz", "npy", "joblib", "ckpt"})
TEXTS = frozenset(("cls", "json", "txt"))
MAX_TEXT_BYTES = 2**20


class TarImages:
    """Read {key}.jpg (or another image) with {key}.cls, {key}.json and {key}.txt of one tar or a folder of tars."""

    def __init__(self, config: TarSource) -> None:
        if os.path.isfile(config.path):
            self.root = os.path.realpath(os.path.dirname(config.path) or ".")
            self.only: str | None = os.path.basename(config.path)
        else:
            self.root, self.only = local_folder(config.path), None
        self.config = config
        self.names = config.classes
        self.attributes = config.attributes

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return `classes` of the configuration, else every label that occurs."""
        return self.names or sort_classes({item.class_name for item in self._unlabelled})

    def items(self) -> Iterator[SourceItem]:
        """Yield one item a sample; raise SourceError for an unknown label or a class without samples."""
        labels = {name: label for label, name in enumerate(self.classes)}
        used: set[str] = set()
        for item in self._unlabelled:
            used.add(item.class_name)
            yield replace(item, label=labels[item.class_name])
        empty = [name for name in self.classes if name not in used]
        if empty:
            raise SourceError(
                f"{self.root}: no sample of class {name_some(empty)}; add some or take it out of `classes`"
            )

    def read(self, item: SourceItem) -> bytes:
        """Return the member's bytes."""
        name, _, span = item.locator.rpartition("#")
        offset, _, size = span.partition(":")
        if not int(size):
            raise UnreadableItemError("empty_file", f"{item.locator} has 0 bytes")
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                file.seek(int(offset))
                data = file.read(int(size))
        except FileNotFoundError as error:
            raise SourceError(f"{self.root}/{name} is gone since the plan was made: put it back") from error
        if len(data) != int(size):
            raise SourceError(f"{self.root}/{name} is shorter than when the plan was made: put the old file back")
        return check_size(data, item.locator)

    @cached_property
    def _unlabelled(self) -> list[SourceItem]:
        """Return the items with label -1: a label is known once all classes are."""
        names = [self.only] if self.only else sorted(name for name in os.listdir(self.root) if name.endswith(".tar"))
        if not names:
            raise SourceError(
                f"no .tar in {self.root}; expected WebDataset tars (compressed ones must be unpacked to .tar)"
            )
        items = [item for name in names for item in self._items_of(name)]
        if not items:
            raise SourceError(f"no sample in {name_some(names)}: expected {{key}}.jpg with {{key}}.cls or {{key}}.json")
        return items

    def _items_of(self, name: str) -> Iterator[SourceItem]:
        key, span, texts = "", "", dict[str, str]()
        with open(os.path.join(self.root, name), "rb", buffering=0) as file:
            for member in members(file, f"{self.root}/{name}"):
                parts = _split_name(f"{self.root}/{name}", member)
                if parts is None:
                    continue
                if parts[0] != key:
                    if key:
                        yield self._item(name, key, span, texts)
                    key, span, texts = parts[0], "", {}
                if parts[1] in TEXTS and member.size <= MAX_TEXT_BYTES:
                    data = os.pread(file.fileno(), member.size, member.offset)
                    texts[parts[1]] = data.decode("utf-8", "replace")
                elif f".{parts[1]}" in IMAGE_SUFFIXES:
                    if span:
                        raise SourceError(f"{self.root}/{name}: sample {key} has two images; expected one a sample")
                    span = f"{member.offset}:{member.size}"
        if key:
            yield self._item(name, key, span, texts)

    def _item(self, name: str, key: str, span: str, texts: Mapping[str, str]) -> SourceItem:
        where = f"{self.root}/{name}: sample {key}"
        if not span:
            raise SourceError(f"{where} has no image; expected {key}.jpg, .png, .webp or another image")
        try:
            record = loads_outside(texts["json"]) if "json" in texts else {}
        except ValueError as error:
            raise SourceError(f"{where}: its .json: {error}") from error
        if not isinstance(record, dict):
            raise SourceError(f'{where}: its .json is no object, expected {{"label": ...}}')
        label = texts.get("cls", record.get("label"))
        if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
            raise SourceError(f'{where} has no label; expected {key}.cls or a "label" in {key}.json')
        missing = [name for name in self.attributes if record.get(name) is None]
        if missing:
            raise SourceError(f"{where}: no {name_some(missing)} in its .json, which `attributes` asks for")
        path = f"{name.removesuffix('.tar')}/{key}"
        item_key = make_key(path)
        return SourceItem(
            key=item_key,
            split_key=f"group:{record['group']}" if record.get("group") not in (None, "") else item_key,
            label=-1,
            class_name=name_class(str(label).strip(), self.names, f"{self.root}/{path}"),
            locator=f"{name}#{span}",
            caption=str(texts.get("txt") or record.get("caption") or "").strip(),
            attributes={name: str(record[name]) for name in self.attributes},
        )


def _split_name(tar: str, member: Member) -> tuple[str, str] | None:
    """Return key and extension as webdataset splits them, None for other files; SourceError for unsafe members."""
    name = member.name.removeprefix("./")
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(f"{tar}: member {member.name!r} leads out of the tar; names must be relative, without '..'")
    if not member.is_file:
        raise SourceError(f"{tar}: member {member.name!r} is a link or device; expected plain files")
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    extension = extension.lower()
    if not stem or not extension or stem.startswith("__"):
        return None
    if extension.rpartition(".")[2] in PICKLES:
        raise SourceError(
            f"{tar}: member {member.name!r} may hold a pickle, which can run code; store text and images only"
        )
    return (f"{folder}/{stem}" if folder else stem), extension
