"""Evaluate functions of classifiers in parallel: in a pool of actors inside a Ray session, else in this process."""

import logging
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from cluster.monitor.progress import MIN_LINE_S
from cluster.session.worker import error_context, exit_without_teardown, explain, load_with_retries
from engine.runfile.fields import ModelConfig
from engine.runfile.probe import ProbeConfig
from engine.storage.storage import Storage
from engine.wording import duration

if TYPE_CHECKING:
    import pyarrow as pa

    from actors.classifier.classifier import Classifier

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")
# Of a panel: a 16 GB device has room for it and for a batch of images.
MOST_HELD = 4 << 30


@dataclass(frozen=True, kw_only=True)
class ClassifierRef:
    """A reference to a classifier that any worker can load. With a `storage` the model is a folder inside it.

    It answers with `classes` alone where it is `restricted`.
    """

    config: ProbeConfig
    classes: tuple[str, ...]
    offline: bool = False
    storage: Storage | None = None
    restricted: bool = True

    @property
    def name(self) -> str:
        """Return its name in the run file."""
        return self.config.model.name if self.config.model else str(self.config.callable)

    def load(self) -> "Classifier":
        """Load it in this process; raises ModelError."""
        from actors.classifier.classifier import Classifier

        with self._local_config() as config:
            return Classifier(config, self.classes, self.offline, restricted=self.restricted)

    def digest(self) -> str:
        """Return the digest that names its predictions."""
        from actors.classifier.classifier import classifier_digest

        with self._local_config() as config:
            return classifier_digest(config, self.offline)

    def num_bytes(self) -> int:
        """Return how large its files are, 0 of a function; raises ModelError."""
        from actors.models.files import resolve_model

        model, storage = self.config.model, self.storage
        if model is None:
            return 0
        if storage is not None:
            return sum(storage.size(f"{model.name}/{name}") or 0 for name in storage.list(model.name))
        folder = Path(resolve_model(model, self.offline).folder)
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())

    @contextmanager
    def _local_config(self) -> Iterator[ProbeConfig]:
        """Yield the config with the model in a local folder, a copy where the storage is remote."""
        model, storage = self.config.model, self.storage
        if storage is None or model is None:
            yield self.config
            return
        with TemporaryDirectory() as folder:
            if storage.is_local:
                folder = str(storage.local_path(model.name))
            else:
                for name in storage.list(model.name):
                    Path(folder, name).write_bytes(storage.read(f"{model.name}/{name}"))
            yield self.config.model_copy(update={"model": ModelConfig(name=folder, dtype=model.dtype)})


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Classifiers that are held at the same time, so that an image is read once for all of them."""

    refs: tuple[ClassifierRef, ...]

    @property
    def name(self) -> str:
        """Return their names in the run file."""
        return ", ".join(ref.name for ref in self.refs)

    def load(self) -> "list[Classifier]":
        """Load all of them in this process; raises ModelError."""
        return [ref.load() for ref in self.refs]


def held_together(refs: Mapping[str, ClassifierRef]) -> list[dict[str, ClassifierRef]]:
    """Return the classifiers by name in their order, in parts of at most MOST_HELD bytes of weights."""
    parts: list[dict[str, ClassifierRef]] = []
    held = 0
    for name, ref in refs.items():
        size = ref.num_bytes()
        if not parts or held + size > MOST_HELD:
            parts.append({})
            held = 0
        parts[-1][name] = ref
        held += size
    return parts


@dataclass(frozen=True, kw_only=True)
class Question(Generic[Answer]):
    """A panel, and a function of its classifiers that can be pickled."""

    panel: Panel
    task: Callable[["list[Classifier]"], Answer]


def ask(questions: Sequence[Question[Answer]], what: str) -> list[Answer]:
    """Return the answers in the order of the questions; the progress is logged under the name `what`.

    An actor holds one panel at a time, so questions to the same one should be adjacent. Raises ModelError, and the
    errors of tasks.
    """
    found: dict[int, Answer] = {}
    start = logged = monotonic()
    for place, answer in _ask_pool(questions) if in_session() else _ask_here(questions):
        found[place] = answer
        now = monotonic()
        if now - logged >= MIN_LINE_S and len(found) < len(questions):
            logged = now
            left = (now - start) / len(found) * (len(questions) - len(found))
            LOG.info("%s: %d/%d parts, %s left", what, len(found), len(questions), duration(left))
    return [found[place] for place in range(len(questions))]


def _ask_here(questions: Sequence[Question[Answer]]) -> Iterator[tuple[int, Answer]]:
    panel, classifiers = None, list["Classifier"]()
    for place, question in enumerate(questions):
        if panel != question.panel:
            # As in an actor: the old ones are freed first.
            classifiers = []
            panel, classifiers = question.panel, question.panel.load()
        yield place, question.task(classifiers)


def in_session() -> bool:
    """Return whether this process has a Ray session; does not import Ray, which takes a second."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


class ClassifierActor:
    """Answer questions, one a row, and keep the classifiers of the last one on their device.

    Questions and answers travel as pickles, as all that Ray carries; only this session has its token.
    """

    def __init__(self) -> None:
        exit_without_teardown()
        self._panel: Panel | None = None
        self._classifiers: list[Classifier] = []

    def __call__(self, block: "pa.Table") -> "pa.Table":
        """Return the positions of the questions and the pickled answers."""
        import pyarrow as pa

        questions = map(pickle.loads, block["question"].to_pylist())  # nosec B301 # of this session
        answers = [pickle.dumps(self._answer(question)) for question in questions]
        return pa.table({"place": block["place"], "answer": pa.array(answers, pa.large_binary())})

    def _answer(self, question: Question[Answer]) -> Answer:
        what = f"classifier {question.panel.name!r}"
        with error_context(what):
            if self._panel != question.panel:
                # The old one is freed first: a device may not have room for both.
                self._panel, self._classifiers = None, []
                self._classifiers = load_with_retries(f"the start of {what}", question.panel.load)
                self._panel = question.panel
            return question.task(self._classifiers)


def _ask_pool(questions: Sequence[Question[Answer]]) -> Iterator[tuple[int, Answer]]:
    if not questions:
        return
    import ray.data
    import ray.exceptions

    from cluster.dataflow.dataflow import data_context

    placement = questions[0].panel.refs[0].config.placement
    low, high = placement.replicas
    rows: list[Any] = [{"place": place, "question": pickle.dumps(each)} for place, each in enumerate(questions)]
    with ray.data.DataContext.current(data_context()):
        answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            ClassifierActor,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=low, max_size=high),
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus or None,
        )
        try:
            for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                found = zip(batch["place"].to_pylist(), batch["answer"].to_pylist(), strict=True)
                yield from ((place, cast(Answer, pickle.loads(data))) for place, data in found)  # nosec B301 # of this session
        except ray.exceptions.RayError as error:
            raise explain(error) from error
