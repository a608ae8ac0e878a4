"""Ask one classifier many things in parallel: in a pool of actors inside a Ray session, else in this process."""

import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from engine.errors import EngineError
from engine.runfile import ProbeConfig
from engine.stages import ModelConfig
from engine.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

    from actors.classifier import Classifier

Answer = TypeVar("Answer")
# What is asked: a function of the classifier that can be pickled.
Task = Callable[["Classifier"], Answer]


@dataclass(frozen=True, kw_only=True)
class ClassifierRef:
    """Name a classifier so that any worker can load it. With a `storage` the model is a folder inside it."""

    config: ProbeConfig
    classes: tuple[str, ...]
    offline: bool = False
    storage: Storage | None = None

    @property
    def name(self) -> str:
        """Return what the run file calls it."""
        return self.config.model.name if self.config.model else str(self.config.callable)

    def load(self) -> "Classifier":
        """Load it in this process; raises ModelError."""
        from actors.classifier import Classifier

        with self._local_config() as config:
            return Classifier(config, self.classes, self.offline)

    def digest(self) -> str:
        """Return what names its predictions."""
        from actors.classifier import classifier_digest

        with self._local_config() as config:
            return classifier_digest(config, self.offline)

    @contextmanager
    def _local_config(self) -> Iterator[ProbeConfig]:
        if self.storage is None or self.config.model is None:
            yield self.config
        elif self.storage.is_local:
            yield _with_model(self.config, str(self.storage.local_path(self.config.model.name)))
        else:
            with tempfile.TemporaryDirectory() as folder:
                for name in self.storage.list(self.config.model.name):
                    Path(folder, name).write_bytes(self.storage.read(f"{self.config.model.name}/{name}"))
                yield _with_model(self.config, folder)


def ask_classifier(ref: ClassifierRef, tasks: Sequence[Task[Answer]]) -> Iterator[Answer]:
    """Yield the answers as they come, in any order."""
    if not tasks:
        return
    if in_session():
        yield from _ask_pool(ref, tasks)
        return
    classifier = ref.load()
    for task in tasks:
        yield task(classifier)


def in_session() -> bool:
    """Return whether this process holds a Ray session; Ray is not imported for the question, that takes a second."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


class ClassifierActor:
    """Hold a classifier on its device and answer tasks, one a row."""

    def __init__(self, ref: ClassifierRef) -> None:
        self.where = f"classifier {ref.name!r}"
        self.failure: EngineError | None = None
        try:
            self.classifier = ref.load()
        except EngineError as error:
            # Raised at the first task instead: an error in a constructor makes Ray start the actor again and again.
            self.failure = error

    def __call__(self, block: "pa.Table") -> "pa.Table":
        """Return the pickled answers."""
        import pyarrow as pa

        from cluster.failures import Naming

        with Naming(self.where):
            if self.failure is not None:
                raise self.failure
            answers = [pickle.dumps(pickle.loads(data)(self.classifier)) for data in block["task"].to_pylist()]
        return pa.table({"answer": pa.array(answers, pa.large_binary())})


def _ask_pool(ref: ClassifierRef, tasks: Sequence[Task[Answer]]) -> Iterator[Answer]:
    import ray.data
    import ray.exceptions

    from cluster.dataflow import data_context
    from cluster.failures import explain

    placement = ref.config.placement
    low, high = placement.replicas
    rows: list[Any] = [{"task": pickle.dumps(task)} for task in tasks]
    with ray.data.DataContext.current(data_context()):
        answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            ClassifierActor,
            fn_constructor_kwargs={"ref": ref},
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=low, max_size=high),
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus or None,
        )
        try:
            for batch in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from (cast(Answer, pickle.loads(data)) for data in batch["answer"].to_pylist())
        except ray.exceptions.RayError as error:
            raise explain(error) from error


def _with_model(config: ProbeConfig, folder: str) -> ProbeConfig:
    assert config.model is not None
    model = ModelConfig(name=folder, dtype=config.model.dtype)
    return config.model_copy(update={"model": model})
