"""The classifier in training: loaded for the run's classes, made safe for half precision, gathered and saved."""

import copy
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from actors.classifier.heads import select_rows
from actors.classifier.network import Network
from actors.classifier.prototypes import PROTOTYPES, PrototypeHead
from actors.models.device import DTYPES
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.runfile.reinforce import LoraSettings
from engine.storage.storage import Storage

Weights = dict[str, Tensor]
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
CONFIG = "config.json"
# Of the weights of a head of prototypes, which are not the model's own.
PREFIX = "prototypes/"
# Of logits, before and after the head is cut.
TOLERANCE = 1e-4
# Of layer-wise learning rates: each is a group of DeepSpeed's, which partitions every group by itself.
NUM_RATES = 6


class BaseClassifier:
    """The classifier under test before any training, its head cut to the run's classes in the run's order."""

    def __init__(self, config: ModelConfig, classes: Sequence[str], *, offline: bool) -> None:
        self.classes = tuple(classes)
        # Weights are trained in float32 masters whatever they were stored in; DeepSpeed's JSON sets the precision.
        whole = config.model_copy(update={"dtype": "float32"})
        self._network = Network(whole, classes, torch.device("cpu"), offline=offline)
        self.preprocessing = self._network.preprocessing
        self._model = self._network.module
        self._fit_head()

    @property
    def heads(self) -> list[str]:
        """Return the names of the layers whose outputs are the logits; raises ModelError where there is none."""
        return self._network.heads

    def trial_inputs(self) -> Tensor:
        """Return the model's inputs for two images of noise."""
        return self._network.trial_inputs()

    def model(self) -> nn.Module:
        """Return a fresh copy of the classifier, on the CPU."""
        model: nn.Module = copy.deepcopy(self._model)
        return model

    def weights(self) -> Weights:
        """Return the weights themselves, no copy: only to be read."""
        weights: Weights = self._model.state_dict()
        return weights

    def save(self, weights: Weights, storage: Storage, folder: str) -> None:
        """Write a model that `from_pretrained` loads: config.json goes first when it is replaced and comes last.

        A head of prototypes, as `prototype_weights` gives it, is written beside the model's own.
        """
        model = self.model()
        prototypes = {name.removeprefix(PREFIX): weights[name] for name in weights if name.startswith(PREFIX)}
        model.load_state_dict({name: value for name, value in weights.items() if not name.startswith(PREFIX)})
        with tempfile.TemporaryDirectory() as place:
            model.save_pretrained(place)  # type: ignore[operator]
            self.preprocessing.processor.save_pretrained(place)
            if prototypes:
                save_file(prototypes, Path(place, PROTOTYPES))
            names = [path.name for path in Path(place).iterdir()]
            for name in (CONFIG, PROTOTYPES):
                if storage.exists(f"{folder}/{name}"):
                    storage.delete(f"{folder}/{name}")
            for name in sorted(names, key=lambda name: (name == CONFIG, name)):
                storage.write(f"{folder}/{name}", Path(place, name).read_bytes())

    @torch.no_grad()
    def _trial_logits(self) -> Tensor:
        logits: Tensor = self.model()(self.trial_inputs()).logits
        return logits

    def _fit_head(self) -> None:
        """Cut and reorder the rows of the head to the run's classes; raises ModelError where the logits change."""
        model, columns = self._model, self._network.columns
        if columns != list(range(model.config.num_labels)):
            before = self._trial_logits()[:, columns]
            select_rows(model, self.heads, columns)
            after = self._trial_logits()
            if after.shape != before.shape or not torch.allclose(after, before, rtol=TOLERANCE, atol=TOLERANCE):
                raise ModelError(
                    f"model {self._network.config.name!r} answers otherwise once its head {self.heads} is cut to the "
                    f"run's {len(columns)} classes: give the run all classes of the model, in its order"
                )
        model.config.id2label = dict(enumerate(self.classes))
        model.config.label2id = {label: index for index, label in enumerate(self.classes)}
        model.num_labels = len(self.classes)
        if hasattr(model.config, "label_names"):  # timm's
            model.config.label_names = list(self.classes)
        if model.config.problem_type == "multi_label_classification":  # a sigmoid, which is a choice of two now
            model.config.problem_type = None


def prototype_weights(head: PrototypeHead) -> Weights:
    """Return a head of prototypes as entries of a classifier's weights, for `save`."""
    return {f"{PREFIX}{name}": value for name, value in head.state_dict().items()}


def prepare_precision(model: nn.Module, precision: str) -> None:
    """Make a model fit for half precision, where DeepSpeed casts parameters and leaves buffers alone.

    Batch norm computes in float32, as its running statistics are (torch's CPU kernel refuses the mixture). Any other
    layer casts what it gets to the type of its weights: what comes from a buffer is float32 (SwinV2's table of
    relative positions).
    """
    if precision == "float32":
        return
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.forward = partial(_float32_batch_norm, module)  # type: ignore[method-assign]
        elif not list(module.children()) and list(module.parameters()):
            module.register_forward_pre_hook(partial(_cast_inputs, DTYPES[precision]))


def adapted(base: BaseClassifier, settings: LoraSettings) -> nn.Module:
    """Return a fresh copy with a low-rank adapter on each matrix and convolution; adapters and head train.

    Hu et al. 2021, by peft.
    """
    from peft import LoraConfig, LoraModel

    model = base.model()
    heads = [model.get_submodule(name) for name in base.heads]
    targets = [name for name, layer in model.named_modules() if name not in base.heads and _takes_adapter(layer)]
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets
    )
    found: nn.Module = LoraModel(model, config, "default")
    for head in heads:
        head.requires_grad_(True)
    return found


def merged(weights: Weights, base: BaseClassifier, settings: LoraSettings) -> Weights:
    """Return the weights in the classifier's own architecture: each adapter is added to its matrix."""
    model = adapted(base, settings)
    model.load_state_dict(weights)
    plain: nn.Module = model.merge_and_unload()  # type: ignore[operator]
    return plain.state_dict()


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep the running statistics: batch norm acts as in evaluation while the rest trains."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.eval()


def synchronise_buffers(model: nn.Module) -> None:
    """Set floating buffers (batch norm's statistics) to their mean over the workers: one model is scored and saved."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            torch.distributed.all_reduce(buffer)
            buffer /= torch.distributed.get_world_size()


def gather_weights(model: nn.Module) -> Weights:
    """Return the whole model in float32 to the first worker, nothing to the others; ZeRO-3 keeps it in pieces.

    All workers must call it.
    """
    import deepspeed

    names, first = set(model.state_dict()), torch.distributed.get_rank() == 0
    weights: Weights = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter]):
            if first:
                weights[name] = parameter.detach().float().cpu().clone()
    if first:
        weights |= {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers() if name in names}
    return weights


def share_weights(weights: Weights, base: BaseClassifier, device: torch.device) -> Weights:
    """Return the first worker's weights on every worker; all must call it, and `weights` are empty afterwards.

    One tensor after another: as one object they would be in memory two or three times more while they are pickled.
    """
    shared: Weights = {}
    for name, value in base.weights().items():
        own = weights.pop(name, None)
        sent = (torch.empty_like(value) if own is None else own).contiguous().to(device)
        torch.distributed.broadcast(sent, 0)
        shared[name] = sent.cpu()
    return shared


@torch.no_grad()
def interpolate(model: nn.Module, start: Weights, end: Weights, share: float) -> None:
    """Give a model weights `share` of the way from `start` to `end`; counters are those of `end`. Wortsman et al. 2022.

    In place: no further copy is made.
    """
    for name, value in model.state_dict().items():
        value.copy_(torch.lerp(start[name], end[name], share) if value.is_floating_point() else end[name])


def parameter_groups(model: nn.Module, weight_decay: float, first_layer_rate: float = 1.0) -> list[dict[str, Any]]:
    """Return the trained parameters in groups by `rate` and `weight_decay`: matrices decay, biases and norms do not.

    `rate` is the learning rate as a share of the head's: `first_layer_rate` in the first layers, 1 in the last ones, in
    between one of six on a geometric scale (layer-wise decay, Clark et al. 2020, in fewer groups).
    """
    layers: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layers.setdefault(name.rpartition(".")[0], []).append(parameter)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for place, parameters in enumerate(layers.values()):
        step = round((NUM_RATES - 1) * place / max(1, len(layers) - 1))
        rate = first_layer_rate ** (1 - step / (NUM_RATES - 1))
        for parameter in parameters:
            groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": each, "rate": rate, "weight_decay": decay} for (rate, decay), each in groups.items()]


def _takes_adapter(layer: nn.Module) -> bool:
    # A convolution in groups has little that a low rank could stand for.
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _cast_inputs(dtype: torch.dtype, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.to(dtype) if isinstance(each, Tensor) and each.is_floating_point() else each for each in inputs)


def _float32_batch_norm(module: BatchNorm, values: Tensor) -> Tensor:
    uses_batch = module.training or module.running_mean is None
    momentum = module.momentum
    if module.training and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        momentum = 1 / float(module.num_batches_tracked) if momentum is None else momentum
    result = nn.functional.batch_norm(
        values.float(),
        module.running_mean,
        module.running_var,
        None if module.weight is None else module.weight.float(),
        None if module.bias is None else module.bias.float(),
        uses_batch,
        momentum or 0.0,
        module.eps,
    )
    return result.to(values.dtype)
