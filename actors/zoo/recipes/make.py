"""Rebuild the zoo: `python -m actors.zoo.recipes.make`. Hours on a CPU, minutes on a GPU; run again, it goes on."""

import argparse
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from actors.zoo import MODELS_FOLDER
from actors.zoo.recipes.backbone import train_backbone
from actors.zoo.recipes.captioner import save_captioner, train_captioner
from actors.zoo.recipes.decoder import train_decoder
from actors.zoo.recipes.editor import save_editor, train_editor, train_editor_base
from actors.zoo.recipes.judge import save_judge, train_judge
from actors.zoo.recipes.loop import Workshop
from actors.zoo.recipes.patient import (
    PATIENTS,
    oracle_figures,
    save_patient,
    train_oracle,
    train_patient,
    train_pretrained,
)
from actors.zoo.recipes.perturber import save_perturber, train_perturber
from actors.zoo.recipes.vae import train_vae
from actors.zoo.recipes.verifier import save_verifier, train_verifier
from engine.errors import EngineError
from engine.figures.figures import table
from engine.wardrobe.garments import DEBIAN_FOLDER

MODELS = (
    "vae",
    "backbone",
    "decoder",
    "editor_base",
    "editor",
    "verifier",
    "captioner",
    "perturber",
    "pretrained",
    "pretrained_convnext",
    "patient",
    "patient_convnext",
    "oracle",
    "judge",
)


def main() -> int:
    """Train the models that were asked for, in the order in which they need each other."""
    parser = argparse.ArgumentParser(prog="python -m actors.zoo.recipes.make", description=__doc__)
    parser.add_argument("--only", choices=MODELS, action="append", help="one model instead of all; may be given again")
    parser.add_argument(
        "--fashion-mnist", type=Path, default=DEBIAN_FOLDER, help="folder of Debian's dataset-fashion-mnist"
    )
    parser.add_argument("--work", type=Path, default=Path("build/zoo"), help="checkpoints, rendered pictures and logs")
    parser.add_argument(
        "--out", type=Path, default=MODELS_FOLDER, help="folder of the models; default: where they ship"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=1,
        help="times the width of each model, for a GPU; needs --work and --out of its own",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-only", action="store_true", help="write the models from their last checkpoints")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the recipe's")
    arguments = parser.parse_args()
    if arguments.size < 1:
        parser.error(f"--size {arguments.size}: expected 1 or more")
    if arguments.size > 1 and arguments.out == MODELS_FOLDER:
        parser.error("--size makes other models than those that ship: give --out, and --work for their checkpoints")
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(
        folder=arguments.work,
        device=torch.device(arguments.device),
        fashion_mnist=arguments.fashion_mnist,
        size=arguments.size,
    )
    try:
        for name in arguments.only or MODELS:
            if not arguments.save_only:
                _train(name, workshop, arguments.steps)
            _save(name, workshop, arguments.out)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _train(name: str, workshop: Workshop, num_steps: int | None) -> None:
    # The first weights are drawn before the loop that seeds each step.
    torch.manual_seed(0)
    match name:
        case "patient" | "patient_convnext":
            train_patient(name, workshop, num_steps)
        case "vae":
            train_vae(workshop, num_steps)
        case "decoder":
            train_decoder(workshop, num_steps)
        case "editor_base":
            train_editor_base(workshop, num_steps)
        case "editor":
            train_editor(workshop, num_steps)
        case "backbone":
            train_backbone(workshop, num_steps)
        case "verifier":
            train_verifier(workshop, num_steps)
        case "captioner":
            train_captioner(workshop, num_steps)
        case "perturber":
            train_perturber(workshop, num_steps)
        case "pretrained":
            train_pretrained("patient", workshop, num_steps)
        case "pretrained_convnext":
            train_pretrained("patient_convnext", workshop, num_steps)
        case "oracle":
            train_oracle(workshop, num_steps)
        case "judge":
            train_judge(workshop, num_steps)


def _save(name: str, workshop: Workshop, models: Path) -> None:
    """Write the model's folder among the models, whole or not at all."""
    savers: dict[str, Callable[[Workshop, Path], int]] = {
        "editor": save_editor,
        "verifier": save_verifier,
        "captioner": save_captioner,
        "perturber": save_perturber,
        **{patient: partial(save_patient, patient) for patient in PATIENTS},
        "judge": save_judge,
    }
    save = savers.get(name)
    if name == "oracle":
        print(table(oracle_figures(workshop)))
    if save is None:
        return
    whole, folder = workshop.folder / f"{name}.partial", models / name
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    step = save(workshop, whole)
    if (card := folder / "README.md").exists():
        shutil.copy(card, whole)
    shutil.rmtree(folder, ignore_errors=True)
    models.mkdir(parents=True, exist_ok=True)
    shutil.move(whole, folder)
    print(f"{name}: step {step}, {folder}")


if __name__ == "__main__":
    sys.exit(main())
