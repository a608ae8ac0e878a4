"""Checks of the data: enough readable images and classes, names that are one, test images, groups."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from statistics import median

from cluster.preflight.models import editor_edge, input_edge
from engine.errors import SourceError, UserError
from engine.names import same_names
from engine.plan.duplicates import Unreadable
from engine.plan.plan import Plan
from engine.plan.splits import split_of
from engine.runfile.data import TableSource, WardrobeSource
from engine.runfile.editor import EditorConfig
from engine.runfile.run import RunFile
from engine.sample import Split
from engine.sources import UnreadableItemError, missing_files, open_source
from engine.sources.decode import image_size
from engine.wording import name_some, percent

NUM_MEASURED = 64
# An edit with fewer pixels than the classifier looks at, by this factor, is a blurred picture to it.
BLURRED = 1.5


def check_training_data(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield what is wrong with the images that get edits."""
    if len(plan.classes) == 1:
        yield SourceError(
            f"data.train: all images are of one class, {plan.classes[0]!r}, which no classifier can mistake: name "
            "images of two classes or more"
        )
    for names in same_names(plan.classes):
        yield f"data.train: {name_some(names)} differ only in case or separators: are they one class?"
    yield from plan.notes
    yield from _unreadable(run, plan)
    yield from _coarse_edits(run, plan)


def check_cells(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield where the weakness table would have no cells, or none of a class."""
    least, edited = run.probe.min_sources, plan.counts(edited=True)
    few = [name for name in plan.classes if sum(counts[name] for counts in edited.values()) < least]
    if plan.num_edited < least:
        yield SourceError(
            f"probe.min_sources is {least}, and {plan.num_edited} sources get edits, so no weakness can be found: add "
            "images, raise data.num_sources, or try the run out with --set probe.min_sources=2"
        )
    elif few:
        yield (
            f"probe.min_sources is {least}: {len(few)} of {len(plan.classes)} classes have fewer sources with edits, "
            f"and get no row of their own: {name_some(few)}"
        )


def check_splits(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield where the fine-tuning has no images: of a split, of a class, of data.oracle."""
    if run.probe.model is None:
        return
    counts = plan.counts()
    if not sum(counts["validation"].values()):
        yield SourceError(
            "data.splits.validation: no source is in the validation split, which chooses among the trained weights: "
            f"raise it (it is {run.data.splits.validation:g}) or add images"
        )
    elif not sum(plan.counts(edited=True)["validation"].values()):
        yield (
            "data.num_validation_sources is 0: without edits of validation sources no training is shown to be better, "
            "and the verdict is `do not ship`; set it, for instance to an eighth of data.num_sources"
        )
    for split in ("train", "validation"):
        yield from _classes_without(counts, split)
    yield from _oracle(run, plan)


def check_test_data(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield where the evaluation would fail hours later: no test image, an unknown attribute."""
    counts = plan.counts()
    if run.data.test is None and not sum(counts["test"].values()):
        yield SourceError("data.splits.test: there is no test image: set data.test, or raise data.splits.test")
    elif run.data.test is None:
        yield from _classes_without(counts, "test")
    if run.report.group_by:
        import pyarrow.compute as pc

        train = plan.table.filter(pc.equal(plan.table.column("split"), "train"))
        texts = pc.unique(train.column("attributes")).to_pylist()
        known = sorted({name for text in texts if text for name in json.loads(text)})
        if unknown := [name for name in run.report.group_by if name not in known]:
            has = f"the attributes {known}: choose among these" if known else "none: leave it out"
            yield SourceError(f"report.group_by asks for {unknown}, the images of data.train have {has}")


def _unreadable(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    every = dict(_absent(run, plan)) if plan.near_duplicates is None else plan.near_duplicates.unreadable
    for name, found in every.items():
        count = sum(found.reasons.values())
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in found.reasons.items())
        said = (
            f"data.{name}: {count:,} of {found.num_images:,} images ({percent(count / found.num_images)}) cannot be "
            f"read ({reasons}), such as {name_some(found.examples)}"
        )
        if 2 * count > found.num_images:
            yield SourceError(f"{said}: restore them or correct their paths")
        else:
            yield f"{said}: they are left out"


def _absent(run: RunFile, plan: Plan) -> Iterator[tuple[str, Unreadable]]:
    """Yield the images of tables that do not exist: what can be known where no image was looked at."""
    for name, config in (("train", run.data.train), ("test", run.data.test), ("shifted", run.data.shifted)):
        if not isinstance(config, TableSource):
            continue
        # The plan has those of a million sources at hand; it leaves none out where it looked at none.
        is_train = config is run.data.train
        items = () if is_train else open_source(config).items()
        locators = plan.table.column("locator").to_pylist() if is_train else [item.locator for item in items]
        if missing := missing_files(config, locators):
            reasons = {"missing_file": len(missing)}
            yield name, Unreadable(num_images=len(locators), reasons=reasons, examples=tuple(missing))


def _classes_without(counts: Mapping[Split, Mapping[str, int]], split: Split) -> Iterator[str]:
    empty = [name for name, count in counts[split].items() if not count]
    if 0 < len(empty) < len(counts[split]):
        yield (
            f"data.splits.{split}: {len(empty)} of {len(counts[split])} classes have no image in this split: "
            f"{name_some(empty)}; add images or raise it"
        )


def _oracle(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    if run.data.oracle is None or not any(arm.is_bound for arm in run.reinforce.arms.values()):
        return
    used = {
        item.class_name
        for item in open_source(run.data.oracle).items()
        if split_of(item.split_key, run.data.splits, run.seed) == "train"
    }
    missing = [name for name in plan.classes if name not in used]
    if len(missing) == len(plan.classes):
        yield SourceError(
            f"data.oracle has no image of the train split and the run's classes ({name_some(plan.classes)}): add "
            "images, or leave the arm oracle out"
        )
    elif missing:
        yield f"data.oracle has no image of the train split of {name_some(missing)}: the arm oracle forgets them"


def _coarse_edits(run: RunFile, plan: Plan) -> Iterator[str]:
    """Yield a warning where the editor draws fewer pixels than sources have and the classifier looks at."""
    editors = [(name, config) for name, config in run.stages.items() if isinstance(config, EditorConfig)]
    if not editors or isinstance(run.data.train, WardrobeSource):
        return
    name, config = editors[0]
    edge, seen = editor_edge(config), input_edge(run.probe.model)
    if edge is None or edge * BLURRED >= seen:
        return
    source, edges = open_source(run.data.train), []
    for item, _ in plan.shard(0)[:NUM_MEASURED]:
        with suppress(UnreadableItemError):  # it is counted above
            edges.append(max(image_size(source.read(item))))
    if edges and edge * BLURRED < median(edges):
        yield (
            f"stages.{name}.size: edits have {edge} pixels on their longer edge, sources {median(edges):.0f} (median "
            f"of {len(edges)}), and the classifier looks at {seen}: their blur alone may make it fail; take a larger "
            "size, or an editor made for it"
        )
