"""Rebuild the zoo: `python -m actors.zoo.recipes.make`. Hours on a CPU, minutes on a GPU; run again, it goes on."""

import argparse
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from actors.zoo import MODELS_FOLDER
from actors.zoo.recipes import backbone, captioner, decoder, editor, eyes, judge, perturber, segmenter, vae, verifier
from actors.zoo.recipes.patient import (
    CLASSIFIERS,
    CORRELATION,
    ORACLE,
    oracle_figures,
    save_classifier,
    start_finetuning,
    start_pretraining,
)
from actors.zoo.recipes.training.loop import TrainContext, ZooModel, train
from engine.errors import EngineError
from engine.figures.figures import table
from engine.wardrobe.garments import DEBIAN_FOLDER

ZOO = (
    ZooModel(recipe=vae.RECIPE, start=vae.start_vae),
    ZooModel(recipe=backbone.RECIPE, start=backbone.start_backbone),
    ZooModel(recipe=decoder.RECIPE, start=decoder.start_decoder),
    ZooModel(recipe=editor.BASE_RECIPE, start=editor.start_editor_base),
    ZooModel(recipe=editor.RECIPE, start=editor.start_editor, save=editor.save_editor),
    ZooModel(recipe=verifier.RECIPE, start=verifier.start_verifier, save=verifier.save_verifier),
    ZooModel(recipe=eyes.RECIPE, start=eyes.start_eyes, save=eyes.save_eyes),
    ZooModel(recipe=segmenter.RECIPE, start=segmenter.start_segmenter, save=segmenter.save_segmenter),
    ZooModel(recipe=captioner.RECIPE, start=captioner.start_captioner, save=captioner.save_captioner),
    ZooModel(recipe=perturber.RECIPE, start=perturber.start_perturber, save=perturber.save_perturber),
    *(
        ZooModel(recipe=classifier.pretraining, start=partial(start_pretraining, classifier))
        for classifier in CLASSIFIERS.values()
    ),
    *(
        ZooModel(
            recipe=classifier.recipe,
            start=partial(start_finetuning, classifier, CORRELATION),
            save=partial(save_classifier, classifier),
        )
        for classifier in CLASSIFIERS.values()
    ),
    ZooModel(recipe=ORACLE.recipe, start=partial(start_finetuning, ORACLE, None)),
    ZooModel(recipe=judge.RECIPE, start=judge.start_judge, save=judge.save_judge),
)
MODELS = {model.recipe.name: model for model in ZOO}


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
    context = TrainContext(
        folder=arguments.work,
        device=torch.device(arguments.device),
        fashion_mnist=arguments.fashion_mnist,
        size=arguments.size,
    )
    try:
        for name in arguments.only or MODELS:
            if not arguments.save_only:
                _train(MODELS[name], context, arguments.steps)
            if name == ORACLE.recipe.name:
                print(table(oracle_figures(context)))
            _save(MODELS[name], context, arguments.out)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _train(model: ZooModel, context: TrainContext, num_steps: int | None) -> None:
    # The first weights are drawn before the loop that seeds each step.
    torch.manual_seed(0)
    network, loss = model.start(context)
    train(replace(model.recipe, num_steps=num_steps or model.recipe.num_steps), network, loss, context)


def _save(model: ZooModel, context: TrainContext, models: Path) -> None:
    """Write the model's folder among the models, whole or not at all; do nothing for one that does not ship."""
    if model.save is None:
        return
    name = model.recipe.name
    whole, folder = context.folder / f"{name}.partial", models / name
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    step = model.save(context, whole)
    if (card := folder / "README.md").exists():
        shutil.copy(card, whole)
    shutil.rmtree(folder, ignore_errors=True)
    models.mkdir(parents=True, exist_ok=True)
    shutil.move(whole, folder)
    print(f"{name}: step {step}, {folder}")


if __name__ == "__main__":
    sys.exit(main())
