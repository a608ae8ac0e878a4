"""Low-rank adapters (Hu et al. 2021) on the classifier in training, by peft, and the classifier that comes of them."""

from torch import nn

from actors.finetune.model import BaseClassifier, Weights, find_head
from engine.runfile.reinforce import LoraSettings


def adapted(patient: BaseClassifier, settings: LoraSettings) -> nn.Module:
    """Return a fresh copy of the patient with an adapter on each matrix and convolution; these and the head train."""
    from peft import LoraConfig, LoraModel

    model = patient.model()
    head = find_head(model, len(patient.classes), "lora")
    targets = [name for name, layer in model.named_modules() if layer is not head and _takes_adapter(layer)]
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets
    )
    found: nn.Module = LoraModel(model, config, "default")
    head.requires_grad_(True)
    return found


def merged(weights: Weights, patient: BaseClassifier, settings: LoraSettings) -> Weights:
    """Return the weights of the patient's own architecture: what the adapters have learned is added to the matrices."""
    model = adapted(patient, settings)
    model.load_state_dict(weights)
    plain: nn.Module = model.merge_and_unload()  # type: ignore[operator]
    return plain.state_dict()


def _takes_adapter(layer: nn.Module) -> bool:
    # A convolution in groups has little that a low rank could stand for.
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
