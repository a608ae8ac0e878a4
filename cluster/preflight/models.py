"""Checks of the models that the stages and the probe load: their files, here or on the hub."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from actors.editor.learning.adapters import read_adapter
from actors.editor.strategies.families import family_of
from actors.models.files import HUB_ID, HUB_TIMEOUT_S, REMOVED, SINGLE_FILES, fetch_json, read_json, resolve_model
from engine.errors import ModelError, UserError
from engine.plan.plan import Plan
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import Config, ModelConfig
from engine.runfile.run import RunFile
from engine.runfile.stages import AnyStageConfig
from engine.runfile.verifier import VerifierConfig

CONFIG, INDEX = "config.json", "model_index.json"
# Ends of the class names that config.json has of models that a stage cannot use.
WRONG_KINDS = {
    "captioner": ("ForImageClassification", "CLIPModel"),
    "perturber": ("ForImageClassification", "CLIPModel"),
    "verifier": ("ForImageClassification", "ForCausalLM", "ForConditionalGeneration"),
    "clip": ("ForImageClassification", "ForCausalLM", "ForConditionalGeneration"),
    "vision": ("CLIPModel", "ForCausalLM", "ForConditionalGeneration"),
    "classifier": ("CLIPModel", "ForCausalLM", "ForConditionalGeneration"),
}
# Of the pictures that most classifiers see.
USUAL_EDGE = 224

SAVE = (
    "load it in the library that wrote it (diffusers: from_single_file), save it with save_pretrained, and name that "
    "folder"
)


def check_stage_models(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield what is wrong with the models of the stages; those on a server are the server's."""
    for name, config in run.stages.items():
        if getattr(config, "server", None) is not None:
            continue
        for field, model in models_of(config, f"stages.{name}"):
            kind = SINGLE_FILES.get(Path(model.name).suffix.lower())
            if kind is not None and not Path(model.name).is_dir():
                yield ModelError(f"{field}: {model.name} is {kind}, expected a folder or a hub id: {SAVE}")
                continue
            is_editor, wanted = isinstance(config, EditorConfig) and model is config.model, _kind_of(config, model)
            is_pipeline = is_editor or wanted == "diffusion"
            yield from _check_model(field, model, run.offline, INDEX if is_pipeline else CONFIG)
            yield from _check_kind(field, wanted, model)
            if isinstance(config, EditorConfig) and is_editor:
                yield from _check_method(f"stages.{name}.method", config, run.offline)
                yield from _check_adapters(f"stages.{name}.adapters", config)


def check_probe_models(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield which classifiers are not there: the one under test, and those that are asked about the same edits."""
    for field, model in models_of(run.probe, "probe"):
        yield from _check_model(field, model, run.offline)


def models_of(config: Config, path: str) -> Iterator[tuple[str, ModelConfig]]:
    """Yield every model that a section of the run file names, with its field."""
    for name, value in config:
        parts: Iterable[tuple[object, object]] = ((None, value),)
        if isinstance(value, tuple | dict):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
        for place, each in parts:
            field = f"{path}.{name}" if place is None else f"{path}.{name}.{place}"
            if isinstance(each, ModelConfig):
                yield field, each
            elif isinstance(each, Config):
                yield from models_of(each, field)


def _check_model(field: str, model: ModelConfig, offline: bool, wanted: str | None = None) -> Iterator[str | UserError]:
    """Yield what is wrong with the files of a model, one of them `wanted`; of a hub id only its page is asked for."""
    name = model.name
    try:
        files = resolve_model(model, offline=True)
    except ModelError as error:
        if offline or name in REMOVED or not HUB_ID.fullmatch(name) or name.startswith("zoo/") or Path(name).is_dir():
            yield ModelError(f"{field}: {error}")
        else:
            yield from _ask_hub(field, model, error)
        return
    if wanted is not None and not Path(files.folder, wanted).is_file():
        kind = "a pipeline of diffusers" if wanted == INDEX else "a model of transformers"
        yield ModelError(f"{field}: {name} has no {wanted}: this field wants {kind}, name another model")


def _check_kind(field: str, wanted: str, model: ModelConfig) -> Iterator[ModelError]:
    """Yield where the files of a stage's model show that it is of another kind."""
    kind = next(iter(_read_json(model, CONFIG).get("architectures") or ()), "")
    if str(kind).endswith(WRONG_KINDS.get(wanted, ())):
        yield ModelError(f"{field}: {model.name} is a {kind}, which is no model for a {wanted}: name another one")
    elif wanted == "perturber" and _read_json(model, CONFIG):
        settings = _read_json(model, "tokenizer_config.json")
        folder = Path(resolve_model(model, offline=True).folder)
        if not settings.get("chat_template") and not any(folder.glob("chat_template.*")):
            yield ModelError(f"{field}: {model.name} has no chat template: name an instruction-tuned model")


def _kind_of(config: AnyStageConfig, model: ModelConfig) -> str:
    """Return what a model of a stage is for: the kind of the signal that names it, else that of the stage."""
    signals = config.signals.values() if isinstance(config, VerifierConfig) else ()
    return next((signal.kind for signal in signals if getattr(signal, "model", None) is model), config.kind)


def _check_method(field: str, config: EditorConfig, offline: bool) -> Iterator[ModelError]:
    """Yield where a pipeline, by its model_index.json, cannot do the method of an editor."""
    index = _read_json(config.model, INDEX)
    if not index and not offline and HUB_ID.fullmatch(config.model.name):
        index = fetch_json(config.model, INDEX) or {}
    try:
        if isinstance(class_name := index.get("_class_name"), str):
            family_of(config, class_name)
    except ModelError as error:
        yield ModelError(f"{field}: {error}")


def _check_adapters(field: str, config: EditorConfig) -> Iterator[ModelError]:
    """Yield which learned words and LoRAs of an editor are not there, or are others than the run file says."""
    for place, adapter in enumerate(config.adapters):
        try:
            read_adapter(adapter)
        except ModelError as error:
            yield ModelError(f"{field}.{place}: {error}")


def _ask_hub(field: str, model: ModelConfig, not_here: ModelError) -> Iterator[str | UserError]:
    from huggingface_hub import HfApi, errors

    what = f"{field}: {model.name}{f' at revision {model.revision}' if model.revision else ''}"
    try:
        found = HfApi().model_info(model.name, revision=model.revision, timeout=HUB_TIMEOUT_S)
    except errors.OfflineModeIsEnabled:  # HF_HUB_OFFLINE is set
        yield ModelError(f"{field}: {not_here}")
    except errors.GatedRepoError:
        yield ModelError(f"{what} is gated: accept its licence on the hub and log in with `hf auth login`")
    except errors.RevisionNotFoundError:
        yield ModelError(f"{what} is not on the hub: name a commit, tag or branch of it")
    except errors.RepositoryNotFoundError:
        yield ModelError(f"{what} is no folder here and not on the hub, or is private: check the name, or log in")
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        yield f"{what} is not on this machine, and the hub does not answer ({type(error).__name__}): check the network"
    else:
        names = [file.rfilename for file in found.siblings or ()]
        if names and not any(each.endswith(".safetensors") for each in names):
            yield ModelError(f"{what} has no weights in safetensors on the hub: name a model or a revision that has")


def editor_edge(config: EditorConfig) -> int | None:
    """Return the longer edge in pixels of an editor's pictures, None where no file on this machine says it."""
    if config.size is not None:
        return config.size
    parts = [_read_json(config.model, f"{name}/config.json") for name in ("unet", "transformer", "vae")]
    edge, blocks = (parts[0] or parts[1]).get("sample_size"), parts[2].get("block_out_channels")
    return edge * 2 ** (len(blocks) - 1) if isinstance(edge, int) and blocks else None


def input_edge(model: ModelConfig | None) -> int:
    """Return the edge in pixels of what a classifier sees; that of most where no file on this machine says it."""
    content = _read_json(model, "preprocessor_config.json") if model else {}
    edge = content.get("crop_size") or content.get("size")
    edges = [value for value in (edge.values() if isinstance(edge, dict) else [edge]) if isinstance(value, int)]
    return min(edges, default=USUAL_EDGE)


def _read_json(model: ModelConfig, name: str) -> dict[str, Any]:
    """Return a JSON file of a model, nothing where it is not on this machine."""
    try:
        return read_json(resolve_model(model, offline=True).folder, name) or {}
    except ModelError:
        return {}
