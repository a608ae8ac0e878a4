"""Train the judge of `make zoo-eval`: a network of its own, on garments that no other model has seen."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from actors.zoo.recipes.backbone import AttributeClassifier, attribute_loss, attribute_scenes, make_backbone
from actors.zoo.recipes.training.loop import Loss, Recipe, TrainContext, averaged
from actors.zoo.recipes.training.pictures import garments_of, rendered

RECIPE = Recipe(name="judge", num_steps=8000, learning_rate=2e-3, weight_decay=0.05, num_warmup_steps=200, seed=7)
NUM_PICTURES = 60_000
WEIGHTS = "judge.safetensors"


def start_judge(context: TrainContext) -> tuple[nn.Module, Loss]:
    """Start on balanced composites of the judge's own garments."""
    garments = garments_of("judge", context.fashion_mnist)
    scenes = attribute_scenes(garments, "judge", NUM_PICTURES)
    pictures = rendered(context.folder / "judge.npy", scenes, garments)
    model = make_backbone().to(context.device)
    return model, attribute_loss(model, RECIPE.seed, scenes, pictures, context)


def save_judge(context: TrainContext, folder: Path) -> int:
    """Write the judge's weights from the last checkpoint; return the step it is from."""
    model = make_backbone()
    step = averaged(RECIPE, model, context)
    save_file(model.half().state_dict(), folder / WEIGHTS)
    return step


def load_judge(folder: Path) -> AttributeClassifier:
    """Return the judge that ships."""
    model = make_backbone()
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.float().eval().requires_grad_(False)
