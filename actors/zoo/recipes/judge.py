"""Train the judge of `make zoo-eval`: a network of its own, on garments that no other model has seen."""

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.zoo.recipes.backbone import Sighted, make_backbone, sighted_loss, sighted_scenes
from actors.zoo.recipes.loop import Recipe, Workshop, averaged, train
from actors.zoo.recipes.pictures import garments_of, rendered

RECIPE = Recipe(name="judge", num_steps=8000, learning_rate=2e-3, weight_decay=0.05, num_warmup_steps=200, seed=7)
NUM_PICTURES = 60_000
WEIGHTS = "judge.safetensors"


def train_judge(workshop: Workshop, num_steps: int | None = None) -> None:
    """Train on balanced composites of the judge's own garments."""
    garments = garments_of("judge", workshop.fashion_mnist)
    scenes = sighted_scenes(garments, "judge", NUM_PICTURES)
    pictures = rendered(workshop.folder / "judge.npy", scenes, garments)
    recipe = replace(RECIPE, num_steps=num_steps or RECIPE.num_steps)
    model = make_backbone().to(workshop.device)
    train(recipe, model, sighted_loss(model, recipe, scenes, pictures, workshop), workshop)


def save_judge(workshop: Workshop, folder: Path) -> int:
    """Write the judge's weights from the last checkpoint; return the step it is from."""
    model = make_backbone()
    step = averaged(RECIPE, model, workshop)
    state: dict[str, Tensor] = {
        name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS)
    return step


def load_judge(folder: Path) -> Sighted:
    """Return the judge that ships."""
    model = make_backbone()
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.float().eval().requires_grad_(False)
