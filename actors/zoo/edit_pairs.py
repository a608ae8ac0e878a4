"""The pairs of composites that the editor learns from, their latents, and the words for what differs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from actors.zoo.language import edit_instructions
from actors.zoo.pictures import garments_of, made_once, rendered, to_tensor
from actors.zoo.train_vae import load_vae
from actors.zoo.training import Workshop
from engine.wardrobe.garments import CLASSES, Garments
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, LIGHTS, Scene, caption, make_scenes

NUM_FAMILIES = 8_000
# A family: a composite, two on other backgrounds, one in another colour, one in another light or of another garment.
FAMILY = 5
SHARES = {"background": 0.38, "colour": 0.22, "lighting": 0.07, "object": 0.24, "placebo": 0.09}
CAPTION_SHARE = 0.15


def editor_families(garments: Garments) -> list[tuple[Scene, ...]]:
    """Return families of FAMILY composites; half of the first ones are biased as a patient's data are."""
    balanced = make_scenes(garments, "editor", NUM_FAMILIES)
    biased = make_scenes(garments, "editor-biased", NUM_FAMILIES, correlation=0.95)
    return [
        _family(pair[index % 4 == 0], garments, np.random.default_rng((1, index)))
        for index, pair in enumerate(zip(balanced, biased, strict=True))
    ]


def editor_latents(workshop: Workshop, families: list[tuple[Scene, ...]]) -> NDArray[np.float16]:
    """Return the latents of all composites, (num_families * FAMILY, LATENT_CHANNELS, 16, 16), made once."""

    def make() -> NDArray[np.float16]:
        pictures = editor_pictures(workshop.folder, families, garments_of("zoo", workshop.fashion_mnist))
        vae = load_vae(workshop)
        parts = []
        with torch.no_grad(), workshop.autocast():
            for start in range(0, len(pictures), 128):
                images = to_tensor(pictures[start : start + 128], workshop.device)
                parts.append(vae.encode(images).latents.half().cpu().numpy())
        return np.concatenate(parts)

    return made_once(workshop.folder / "editor_latents.npy", make)


def editor_pictures(folder: Path, families: list[tuple[Scene, ...]], garments: Garments) -> NDArray[np.uint8]:
    """Return the pictures of all families, one family after the other."""
    return rendered(folder / "editor.npy", [scene for family in families for scene in family], garments)


def _family(scene: Scene, garments: Garments, rng: np.random.Generator) -> tuple[Scene, ...]:
    others = rng.permutation([name for name in BACKGROUNDS if name != scene.background])
    colour = str(rng.choice([name for name in COLOURS if name != scene.colour]))
    if rng.random() < 0.5:
        light = str(rng.choice([name for name in LIGHTS if name != "plain"]))
        last = replace(scene, light=light)
    else:
        label = int(rng.choice([other for other in range(len(CLASSES)) if other != scene.label]))
        last = replace(scene, label=label, garment=int(rng.choice(garments.of_class(label))))
    return (
        scene,
        replace(scene, background=str(others[0])),
        replace(scene, background=str(others[1])),
        replace(scene, colour=colour),
        last,
    )


def draw_edits(
    rng: np.random.Generator, families: list[tuple[Scene, ...]], count: int
) -> tuple[NDArray[np.intp], list[str]]:
    """Return rows of (source, target) latents, (count, 2), and their prompts."""
    kinds = rng.choice(list(SHARES), p=list(SHARES.values()), size=count)
    rows, prompts = [], []
    for kind in kinds:
        family, first, second = _draw_pair(rng, str(kind), families)
        source, target = families[family][first], families[family][second]
        rows.append((family * FAMILY + first, family * FAMILY + second))
        if rng.random() < CAPTION_SHARE:
            prompts.append(caption(target))
        else:
            ways = edit_instructions(str(kind), *_values(str(kind), source, target), source.class_name)
            prompts.append(ways[0] if rng.random() < 0.6 else str(rng.choice(ways)))
    return np.array(rows), prompts


def _draw_pair(rng: np.random.Generator, kind: str, families: list[tuple[Scene, ...]]) -> tuple[int, int, int]:
    """Return a family and the places of source and target in it, for an edit of this kind."""
    while True:
        family = int(rng.integers(len(families)))
        last_is_light = families[family][4].light != "plain"
        match kind:
            case "background":
                first, second = (int(place) for place in rng.permutation(3)[:2])
            case "colour":
                first, second = (0, 3) if rng.random() < 0.5 else (3, 0)
            case "placebo":
                first = second = int(rng.integers(FAMILY))
            case _:
                first, second = (0, 4) if rng.random() < 0.7 else (4, 0)
                if last_is_light != (kind == "lighting"):
                    continue
        return family, first, second


def _values(kind: str, source: Scene, target: Scene) -> tuple[str, str]:
    match kind:
        case "background":
            return source.background, target.background
        case "colour":
            return source.colour, target.colour
        case "lighting":
            return source.light, target.light
        case _:
            return source.class_name, target.class_name
