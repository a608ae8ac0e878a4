"""WebDataset tars, indexed once: a sample is read by one seek."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

from engine.errors import SourceError
from engine.names import nfc
from engine.runfile.data import TarSource
from engine.shards.record import ATTRIBUTE, mapping_of
from engine.sources.folder import IMAGE_SUFFIXES
from engine.sources.item import SourceItem, UnreadableItemError, check_size, local_folder, make_key
from engine.sources.labels import (
    MISSING,
    attribute_text,
    class_names,
    composed,
    group_texts,
    known_text,
    name_class,
    sort_classes,
    value_text,
)
from engine.sources.tar_index import Member, members
from engine.untrusted_json import loads_outside
from engine.wording import name_some

PICKLES = frozenset({"pickle", "pkl", "pyd", "pth", "pt", "npz", "npy", "joblib", "ckpt"})
TEXTS = frozenset(("cls", "json", "txt"))
IMAGE = "image"
MAX_TEXT_BYTES = 2**20
TAR = ".tar"
PACKED = re.compile(r"\.tar\.(gz|bz2|xz|zst|zstd|lz4|Z)$|\.(tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
# Fields of a run's own records, which no other tar has all.
OWN_FIELDS = {"class_name", "role", "source_key", "edit_kind"}


class TarImages:
    """Read {key}.jpg (or another image) with {key}.cls, {key}.json and {key}.txt of one tar or a folder of tars.

    Of a run's own shards the sources are read, with the run's class names and attributes, and no edits.
    """

    def __init__(self, config: TarSource) -> None:
        if os.path.isfile(config.path):
            self.root = os.path.realpath(os.path.dirname(config.path) or ".")
            self.only: str | None = os.path.basename(config.path)
        else:
            self.root, self.only = local_folder(config.path), None
        self.config = config
        self.names = class_names(config.classes, config.path)
        self.attributes = config.attributes
        self.notes: list[str] = []
        self._absent, self._first, self._edits = list(config.attributes), "", 0
        self._class_of: dict[str, str] = {}

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
        names = [self.only] if self.only else self._tars()
        items = [item for name in names for item in self._items_of(name)]
        if not items and self._edits:
            raise SourceError(
                f"{self.root}: these shards of a run hold edits alone, no sources: name those of RUN/shards"
            )
        if not items:
            raise SourceError(f"no sample in {name_some(names)}: expected {{key}}.jpg with {{key}}.cls or {{key}}.json")
        if self._absent:
            raise SourceError(f"{self._first}: no {name_some(self._absent)} in its .json, which `attributes` asks for")
        if self._edits:
            self.notes.append(
                f"{self.root} holds a run's shards: its sources are read, {self._edits} placebos and edits left out; "
                "`counterforge probe` scores a classifier on those"
            )
        return items

    def _tars(self) -> list[str]:
        """Return the names of the tars; SourceError where there is none, or a compressed one would be left out."""
        with os.scandir(self.root) as entries:
            files = sorted(entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
        names = [name for name in files if name.lower().endswith(TAR)]
        packed = [name for name in files if (match := PACKED.search(name)) and name[: match.start()] + TAR not in names]
        below = [os.path.relpath(folder, self.root) for folder in _folders_with_tars(self.root)]
        if packed and names:
            raise SourceError(
                f"{self.root}: {len(packed)} compressed tars lie beside plain ones and cannot be read: "
                f"{name_some(packed)}; unpack them to .tar, or move them away"
            )
        if not names:
            what = f"; it has {name_some(packed)}" if packed else ""
            what += f"; tars lie in its folders {name_some(below)}: name one of them" if below else ""
            raise SourceError(
                f"no .tar in {self.root}; expected WebDataset tars (compressed ones must be unpacked to .tar){what}"
            )
        if below:
            self.notes.append(f"the tars in folders of {self.root} were left out: {name_some(below)}")
        return names

    def _items_of(self, name: str) -> Iterator[SourceItem]:
        # By key, then by extension: the texts, and offset and size of the image. Members of a sample may lie apart, as
        # in tars that were sorted or written by type.
        samples: dict[str, dict[str, str]] = defaultdict(dict)
        where = f"{self.root}/{name}"
        with open(os.path.join(self.root, name), "rb", buffering=0) as file:
            for member in members(file, where):
                parts = _split_name(where, member)
                if parts is None:
                    continue
                key, extension = parts
                sample = samples[key]
                if extension in TEXTS and member.size <= MAX_TEXT_BYTES:
                    data = os.pread(file.fileno(), member.size, member.offset)
                    text = data.decode("utf-8", "replace")
                    if sample.setdefault(extension, text) != text:
                        raise SourceError(f"{where}: sample {key} has two .{extension}; expected one a sample")
                elif f".{extension}" in IMAGE_SUFFIXES:
                    if IMAGE in sample:
                        raise SourceError(f"{where}: sample {key} has two images; expected one a sample")
                    sample[IMAGE] = f"{member.offset}:{member.size}"
        for key, sample in samples.items():
            # What webdataset calls metadata: __index__.json and the like.
            if IMAGE not in sample and key.rpartition("/")[2].startswith("__"):
                continue
            item = self._item(name, key, sample)
            if item is not None:
                yield item

    def _item(self, name: str, key: str, sample: Mapping[str, str]) -> SourceItem | None:
        """Return the item of a sample, None for an edit or placebo of a run."""
        where = f"{self.root}/{name}: sample {key}"
        if IMAGE not in sample:
            raise SourceError(f"{where} has no image; expected {key}.jpg, .png, .webp or another image")
        record = _record(sample["json"], where) if "json" in sample else {}
        is_own = is_own_record(record)
        if is_own and record["role"] != "source":
            self._edits += 1
            return None
        written = record["class_name"] if is_own and not self.names else sample.get("cls", record.get("label"))
        if not (label := value_text(written)):
            seen = f", {str(written)[:40]!r} is none" if written else ""
            raise SourceError(f'{where} has no label{seen}; expected {key}.cls or a "label" in {key}.json')
        self._first = self._first or where
        fields = record | mapping_of(record, ATTRIBUTE) if is_own else record
        if self._absent:
            self._absent = [name for name in self._absent if fields.get(nfc(name)) is None]
        path = f"{name[: -len(TAR)]}/{key}"
        item_key = make_key(path)
        group = group_texts([attribute_text(fields["group"])])[0] if "group" in fields else ""
        if label not in self._class_of:
            self._class_of[label] = name_class(label, self.names, f"{self.root}/{path}")
        caption = sample.get("txt", "").strip() or value_text(record.get("caption", ""))
        return SourceItem(
            key=item_key,
            split_key=f"group:{group}" if group else item_key,
            label=-1,
            class_name=self._class_of[label],
            locator=f"{name}#{sample[IMAGE]}",
            caption="" if caption in MISSING else caption,
            attributes={name: known_text(attribute_text(fields.get(nfc(name)))) for name in self.attributes},
        )


def first_records(path: str, count: int) -> list[dict[str, Any]]:
    """Return the JSON of the first samples of a tar, or of the first tar of a folder; as far as it can be read."""
    found: list[dict[str, Any]] = []
    with suppress(SourceError, OSError):
        source = TarImages(TarSource(path=path))
        name = f"{source.root}/{source.only or source._tars()[0]}"
        with open(name, "rb", buffering=0) as file:
            for member in members(file, name):
                if len(found) == count:
                    break
                if (_split_name(name, member) or ("", ""))[1] == "json" and member.size <= MAX_TEXT_BYTES:
                    data = os.pread(file.fileno(), member.size, member.offset)
                    found.append(_record(data.decode("utf-8", "replace"), name))
    return found


def is_own_record(record: Mapping[str, Any]) -> bool:
    """Return whether a record is one that a run wrote into its shards."""
    return record.keys() >= OWN_FIELDS


def own_attributes(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names of the attributes of a run's records."""
    return tuple(dict.fromkeys(name for record in records for name in mapping_of(record, ATTRIBUTE)))


def _record(text: str, where: str) -> dict[str, Any]:
    try:
        record = loads_outside(text)
    except ValueError as error:
        raise SourceError(f"{where}: its .json: {error}") from error
    if not isinstance(record, dict):
        raise SourceError(f'{where}: its .json is no object, expected {{"label": ...}}')
    return composed(record)


def _folders_with_tars(root: str) -> list[str]:
    """Return the folders below `root` that hold tars."""
    return sorted(
        folder
        for folder, _, files in os.walk(root)
        if folder != root and any(name.lower().endswith(TAR) and not name.startswith(".") for name in files)
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
    is_known = extension in TEXTS or f".{extension}" in IMAGE_SUFFIXES
    if not stem or not extension or (stem.startswith("__") and not is_known):
        return None
    if extension.rpartition(".")[2] in PICKLES:
        raise SourceError(
            f"{tar}: member {member.name!r} may hold a pickle, which can run code; store text and images only"
        )
    return (f"{folder}/{stem}" if folder else stem), extension
