"""Models from their files: weights, processors and tokenizers of transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError

from actors.models.device import weights_dtype
from actors.models.files import ModelFiles, first_line, read_json
from actors.models.untyped import Model, Processor, Tokenizer
from actors.models.videoless import videoless_processor
from engine.errors import ModelError, ModelUnavailableError

# Packages that few models want, each an extra of this project, by words of the loaders' errors without them.
EXTRAS = {"sentencepiece": "sentencepiece", "torchvision": "torchvision", "video processor": "torchvision"}


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
            raise ModelError(f"model {name!r} needs a package that is not installed: {first_line(error)}") from error
        kind = ModelUnavailableError if isinstance(error, OSError) else ModelError
        raise kind(f"cannot load model {name!r} as {wanted}: {first_line(error)}") from error


def _is_missing(package: str) -> bool:
    return find_spec(package) is None


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
            ignore_mismatched_sizes=True,
        )
    if mismatched := sorted(info["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise ModelError(
            f"model {files.name!r}: {name} has the shape {tuple(found)} in its weights, {tuple(wanted)} by its "
            "config.json (a head has a row for each name of id2label): correct config.json"
        )
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"model {files.name!r} has no weights for {len(missing)} parts of a {type(loaded).__name__} "
            f"(first: {missing[0]}): it is a model of another kind"
        )
    return loaded.to(device).eval()


def load_image_processor(files: ModelFiles) -> Processor:
    """Return a model's image processor, the one that works on PIL images: it needs no torchvision."""
    import transformers
    from transformers import AutoImageProcessor

    settings = read_json(files.folder, "preprocessor_config.json") or {}
    name = str(settings.get("image_processor_type"))
    with model_errors(files.name, "an image processor"):
        # A name of 2022, which AutoImageProcessor reads in the field feature_extractor_type alone.
        if name.endswith("FeatureExtractor"):
            today = name.replace("FeatureExtractor", "ImageProcessorPil")
            if (found := getattr(transformers, today, None)) is not None:
                return found.from_dict(settings)
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
