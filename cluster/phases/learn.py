"""Learn a word or a LoRA for an editor from the accepted pairs of a run, and write its folder."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from engine.canonical import json_digest
from engine.errors import RunDirectoryError, RunFileError, SelectionError
from engine.run.directory import RunDirectory
from engine.runfile.editor import AdapterKind, EditorConfig
from engine.runfile.fields import Placement
from engine.runfile.run import RunFile
from engine.sample import content_seed
from engine.wording import duration, name_some

if TYPE_CHECKING:
    from actors.editor.learning.card import Card
    from actors.editor.learning.inversion import InversionSettings
    from actors.editor.learning.learner import Learner, Learning
    from actors.editor.learning.lora import LoraSettings
    from actors.editor.learning.pairs import EditedPair

LOG = logging.getLogger(__name__)
CHECKPOINT, PARTIAL = "checkpoint.safetensors", ".partial"
# Gal et al. 2022 take 3 to 5 pictures of one thing; pictures of an edit differ in all but their value.
FEWEST_PAIRS = 8
NUM_REPORTS = 10
VALUES_SHOWN = 12

Row = dict[str, Any]  # of engine/shards/rows.py


@dataclass(frozen=True, kw_only=True)
class LearnRequest:
    """What is to be learned: a word of `num_vectors` (token) or a LoRA of `rank` for the value `after`.

    Of the pairs of `classes` (none: of all) at most `most_pairs` are used, drawn by their keys. `start` is the word
    that a word starts as, or that a LoRA's texts have in place of the value; None: the value itself. `stage` is the
    editor that learns, None the only one.
    """

    after: str
    kind: AdapterKind = "token"
    classes: tuple[str, ...] = ()
    start: str | None = None
    num_vectors: int = 4
    rank: int = 4
    num_steps: int = 200
    most_pairs: int = 500
    stage: str | None = None

    @property
    def content(self) -> dict[str, Any]:
        """Return all that decides what is learned of its kind; Any: as it is in JSON."""
        left_out = ("kind", "rank") if self.kind == "token" else ("num_vectors",)
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def learn_run(rundir: RunDirectory, request: LearnRequest, out: Path, placement: Placement) -> "Card":
    """Learn a word or a LoRA and write it to a folder; return its card.

    Where it was interrupted it goes on, to the same bytes; where it is done nothing is done again. Raises RunFileError,
    SelectionError or ModelError where there is nothing to learn from, RunDirectoryError where the folder holds
    something else.
    """
    from actors.editor.learning.card import FILE as CARD
    from actors.editor.learning.card import read_card
    from actors.editor.learning.learned_file import FILE
    from actors.editor.learning.learner import Learner
    from actors.models.device import resolve_device, set_up_process

    run = rundir.run()
    stage, config = choose_editor(run, request.stage)
    rows = choose_pairs(rundir, request)
    set_up_process(placement.num_threads)
    learner = Learner(config, resolve_device(placement), offline=run.offline)
    keys = [row["key"] for row in rows]
    digest = json_digest([rundir.info.digest, request.content, stage, keys, learner.files.digest])
    _check_folder(out, digest)
    if (out / FILE).is_file() and (out / CARD).is_file():
        LOG.info("learn: nothing to do, %s has it", out)
        return read_card(out)
    out.mkdir(parents=True, exist_ok=True)
    pairs = list(read_pairs(rundir, rows))
    learning = _learn(learner, pairs, request, run.seed, out / CHECKPOINT, digest)
    _write(out / FILE, learning.learned(digest).to_bytes())
    card = _card(learning, rundir, request, rows, stage, out / FILE)
    _write(out / CARD, card.text(str(out)).encode())
    (out / CHECKPOINT).unlink(missing_ok=True)
    return card


def choose_editor(run: RunFile, wanted: str | None) -> tuple[str, EditorConfig]:
    """Return the name and settings of the editor that learns; RunFileError where it is not clear which."""
    editors = {name: stage for name, stage in run.stages.items() if isinstance(stage, EditorConfig)}
    if not editors:
        raise RunFileError(f"the run {run.name!r} has no editor: an editor learns from a run that edits pictures")
    if wanted is None and len(editors) > 1:
        raise RunFileError(f"the run has the editors {', '.join(editors)}: say with --stage which one is to learn")
    name = wanted or next(iter(editors))
    if name not in editors:
        raise RunFileError(f"--stage {name}: the run has no such editor, it has {', '.join(editors)}")
    return name, editors[name]


def choose_pairs(rundir: RunDirectory, request: LearnRequest) -> list[Row]:
    """Return the rows of the edits to learn from: accepted, of train sources, whole, whichever editor drew them.

    Validation sources are left out: what is learned draws edits that a classifier is trained on. Raises SelectionError
    where a class is unknown, or where there are too few.
    """
    if unknown := sorted(set(request.classes) - set(rundir.info.classes)):
        raise SelectionError(f"--classes: the run has no {name_some(unknown)}, it has {', '.join(rundir.info.classes)}")
    classes = request.classes or rundir.info.classes
    names = ["shard", "key", "source_key", "role", "split", "class_name", "edit_after", "edit_severity"]
    rows: list[Row] = rundir.candidates().select([*names, "accepted"]).to_pylist()
    usable = [
        row
        for row in rows
        if row["role"] == "counterfactual"
        and row["accepted"] is not False
        and row["split"] == "train"
        and row["edit_severity"] == 1
        and row["class_name"] in classes
    ]
    found = [row for row in usable if row["edit_after"] == request.after]
    if len(found) < FEWEST_PAIRS:
        counts = Counter(row["edit_after"] for row in usable)
        shown = ", ".join(f"{value} {count}" for value, count in counts.most_common(VALUES_SHOWN))
        more = f" and {len(counts) - VALUES_SHOWN} more" if len(counts) > VALUES_SHOWN else ""
        raise SelectionError(
            f"--after {request.after}: {rundir.storage} has {len(found)} accepted edits of train sources to that value "
            f"at severity 1{' in these classes' if request.classes else ''}, {FEWEST_PAIRS} are needed; it has "
            f"{shown or 'none at all'}{more}"
        )
    found.sort(key=lambda row: content_seed(0, row["key"]))
    return sorted(found[: request.most_pairs], key=lambda row: (row["shard"], row["key"]))


def read_pairs(rundir: RunDirectory, rows: list[Row]) -> "Iterator[EditedPair]":
    """Yield the pairs of rows, a shard at a time."""
    from actors.editor.learning.pairs import EditedPair

    for shard in dict.fromkeys(row["shard"] for row in rows):
        samples = {sample.key: sample for sample in rundir.read_shard(shard)}
        for row in rows:
            if row["shard"] == shard and (edit := samples[row["key"]].edit) is not None:
                yield EditedPair(source=samples[row["source_key"]], edited=samples[row["key"]], edit=edit)


def _learn(
    learner: "Learner", pairs: "list[EditedPair]", request: LearnRequest, seed: int, checkpoint: Path, digest: str
) -> "Learning":
    """Make all steps, with a line of progress at each tenth of them."""
    learning = learner.begin(pairs, request.after, _settings(request, seed))
    LOG.info("learn: %r from %d pairs in %d steps", request.after, learning.num_pairs, request.num_steps)
    if learning.num_pairs < len(pairs):
        LOG.warning("learn: %d pairs name the value otherwise and are left out", len(pairs) - learning.num_pairs)
    for at in learning.training.steps(checkpoint, digest, every=max(1, request.num_steps // NUM_REPORTS)):
        rate = at.num_made / at.seconds
        left = duration((request.num_steps - at.step) / rate)
        LOG.info(
            "learn: step %d of %d, loss %.4f, %.2f steps/s, %s left", at.step, request.num_steps, at.loss, rate, left
        )
    return learning


def _settings(request: LearnRequest, seed: int) -> "InversionSettings | LoraSettings":
    from actors.editor.learning.inversion import InversionSettings
    from actors.editor.learning.lora import LoraSettings

    start, num_steps, drawn = request.start or request.after, request.num_steps, content_seed(seed, request.after)
    match request.kind:
        case "token":
            return InversionSettings(start=start, num_vectors=request.num_vectors, num_steps=num_steps, seed=drawn)
        case "lora":
            return LoraSettings(start=start, rank=request.rank, num_steps=num_steps, seed=drawn)
        case _:
            assert_never(request.kind)


def _card(
    learning: "Learning", rundir: RunDirectory, request: LearnRequest, rows: list[Row], stage: str, path: Path
) -> "Card":
    from actors.editor.learning.card import Card
    from actors.editor.learning.learned_file import read_learned

    found, losses, settings = read_learned(path.parent), learning.losses(), _settings(request, rundir.run().seed)
    return Card(
        value=request.after,
        run=rundir.info.name,
        plan=rundir.info.digest,
        stage=stage,
        model=found.about["model"],
        model_digest=found.about["model_digest"],
        classes=tuple(sorted({row["class_name"] for row in rows})),
        num_pairs=learning.num_pairs,
        start=settings.start,
        num_vectors=request.num_vectors if request.kind == "token" else None,
        rank=request.rank if request.kind == "lora" else None,
        num_steps=settings.num_steps,
        seed=settings.seed,
        seconds=learning.training.state.seconds,
        loss_start=losses.start,
        loss_learned=losses.learned,
        loss_own=losses.own,
        digest=found.digest,
    )


def _write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_suffix(PARTIAL)
    partial.write_bytes(data)
    partial.rename(path)


def _check_folder(out: Path, digest: str) -> None:
    """Refuse a folder that holds what was learned otherwise, or anything else."""
    from actors.editor.learning.card import FILE as CARD
    from actors.editor.learning.learned_file import FILE, called, read_learned

    if out.exists() and not out.is_dir():
        raise RunDirectoryError(f"--out {out} is a file: name a folder for what is learned")
    names = {path.name for path in out.iterdir() if path.suffix != PARTIAL} if out.is_dir() else set()
    if others := sorted(names - {FILE, CARD, CHECKPOINT}):
        raise RunDirectoryError(
            f"--out {out} holds {others[0]!r} and is no folder of a learned word or LoRA: name another one"
        )
    if FILE in names and (found := read_learned(out)).about.get("settings") != digest:
        raise RunDirectoryError(
            f"--out {out} holds {called(found.kind)} that was learned otherwise (another kind, run, value, classes or "
            f"settings, see its {CARD}): name another folder, or delete this one"
        )
