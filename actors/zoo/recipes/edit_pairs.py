"""The pairs of composites that the editor learns from, their latents, and the words for what differs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.zoo.recipes.training.language import edit_instructions
from actors.zoo.recipes.training.loop import TrainContext
from actors.zoo.recipes.training.pictures import garments_of, in_parts, made_once, rendered
from actors.zoo.recipes.vae import load_vae
from engine.wardrobe.garments import CLASSES, Garments
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, LIGHTS, Scene, caption, make_scenes

NUM_FAMILIES = 8_000
NUM_GARMENT_FAMILIES = 4_000
# A family: a composite, two on other backgrounds, one in another colour, one in another light;
# or, after those, a composite and four of it with garments of other classes.
FAMILY = 5
# A garment edit replaces the garment, the others keep what is there: what is hard gets the most. No kind of a run
# does that: its `object` is another thing beside the main object, and of that there is no pair here.
SHARES = {"background": 0.28, "colour": 0.16, "lighting": 0.06, "garment": 0.42, "placebo": 0.08}
# While guidance is distilled: by then what an editor has to unlearn is to change what nobody asked it to change.
DISTILLATION_SHARES = {"background": 0.22, "colour": 0.14, "lighting": 0.05, "garment": 0.36, "placebo": 0.23}
CAPTION_SHARE = 0.15
# The field of a scene that each kind of edit changes.
FIELDS = {"background": "background", "colour": "colour", "lighting": "light", "garment": "class_name"}
# Sources to edit are biased. Other pairs than the classifiers': the editor must not know which background they rely on.
HABITS = {label: BACKGROUNDS[label % len(BACKGROUNDS)] for label in range(len(CLASSES))}


def editor_families(garments: Garments) -> list[tuple[Scene, ...]]:
    """Return families of FAMILY composites, those of one garment first; half of these have HABITS."""
    balanced = make_scenes(garments, "editor", NUM_FAMILIES)
    biased = make_scenes(garments, "editor-biased", NUM_FAMILIES, correlation=0.95, own=HABITS)
    of_one_garment = [
        _family(pair[index % 4 == 0], np.random.default_rng((1, index)))
        for index, pair in enumerate(zip(balanced, biased, strict=True))
    ]
    # The name seeds the scenes: the shipped editor was trained on those of this one.
    scenes = make_scenes(garments, "editor-object", NUM_GARMENT_FAMILIES)
    return of_one_garment + [
        _garment_family(scene, garments, np.random.default_rng((2, index))) for index, scene in enumerate(scenes)
    ]


def editor_latents(context: TrainContext, families: list[tuple[Scene, ...]]) -> NDArray[np.float16]:
    """Return the latents of all composites, (num_families * FAMILY, LATENT_CHANNELS, 16, 16), made once."""

    def make() -> NDArray[np.float16]:
        pictures = editor_pictures(context.folder, families, garments_of("zoo", context.fashion_mnist))
        vae = load_vae(context)
        with context.autocast():
            return in_parts(lambda images: vae.encode(images).latents.half(), pictures, context.device)

    return made_once(context.folder / "editor_latents.npy", make)


def editor_pictures(folder: Path, families: list[tuple[Scene, ...]], garments: Garments) -> NDArray[np.uint8]:
    """Return the pictures of all families, one family after the other."""
    return rendered(folder / "editor.npy", [scene for family in families for scene in family], garments)


def _family(scene: Scene, rng: np.random.Generator) -> tuple[Scene, ...]:
    others = rng.permutation([name for name in BACKGROUNDS if name != scene.background])
    return (
        scene,
        replace(scene, background=str(others[0])),
        replace(scene, background=str(others[1])),
        replace(scene, colour=str(rng.choice([name for name in COLOURS if name != scene.colour]))),
        replace(scene, light=str(rng.choice([name for name in LIGHTS if name != "plain"]))),
    )


def _garment_family(scene: Scene, garments: Garments, rng: np.random.Generator) -> tuple[Scene, ...]:
    others = rng.permutation([label for label in range(len(CLASSES)) if label != scene.label])[: FAMILY - 1]
    return scene, *(
        replace(scene, label=int(label), garment=int(rng.choice(garments.of_class(int(label))))) for label in others
    )


def draw_edits(
    rng: np.random.Generator, families: list[tuple[Scene, ...]], count: int, shares: Mapping[str, float] = SHARES
) -> tuple[NDArray[np.intp], list[str], list[str]]:
    """Return rows of (source, target) latents, (count, 2), their prompts and their kinds, these by their shares."""
    kinds = [str(kind) for kind in rng.choice(list(shares), p=list(shares.values()), size=count)]
    rows, prompts = [], []
    for kind in kinds:
        family, first, second = draw_pair(rng, kind, families)
        source, target = families[family][first], families[family][second]
        rows.append((family * FAMILY + first, family * FAMILY + second))
        if rng.random() < CAPTION_SHARE:
            prompts.append(caption(target))
        else:
            field = FIELDS.get(kind, "class_name")
            ways = edit_instructions(kind, getattr(source, field), getattr(target, field), source.class_name)
            prompts.append(ways[0] if rng.random() < 0.6 else str(rng.choice(ways)))
    return np.array(rows), prompts, kinds


def draw_pair(rng: np.random.Generator, kind: str, families: list[tuple[Scene, ...]]) -> tuple[int, int, int]:
    """Return a family and the places of source and target in it, for an edit of this kind."""
    match kind:
        case "garment":
            first, second = rng.permutation(FAMILY)[:2]
            return int(rng.integers(NUM_FAMILIES, len(families))), int(first), int(second)
        case "placebo":
            place = int(rng.integers(FAMILY))
            return int(rng.integers(len(families))), place, place
        case "background":
            first, second = rng.permutation(3)[:2]
        case _:
            other = {"colour": 3, "lighting": 4}[kind]
            first, second = (0, other) if rng.random() < 0.6 else (other, 0)
    return int(rng.integers(NUM_FAMILIES)), int(first), int(second)
