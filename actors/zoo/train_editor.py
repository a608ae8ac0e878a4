"""Train the editor: a UNet in the instruct-pix2pix layout with its text encoder, on pairs of true composites."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from actors.prompts import PLACEBO_INSTRUCTION
from actors.zoo.language import MAX_TOKENS, TEXT_WIDTH, clip_text_config, clip_tokenizer, edit_instructions
from actors.zoo.pictures import garments_of, rendered, to_tensor
from actors.zoo.train_vae import LATENT_CHANNELS, load_vae
from actors.zoo.training import Recipe, Workshop, averaged, train
from engine.wardrobe.garments import CLASSES, Garments
from engine.wardrobe.scene import BACKGROUNDS, COLOURS, LIGHTS, Scene, caption, make_scenes

RECIPE = Recipe(name="editor", num_steps=3200, learning_rate=5e-4, weight_decay=1e-2)
NUM_FAMILIES = 8_000
BATCH_SIZE = 48
# A family: a composite, two on other backgrounds, one in another colour, one in another light or of another garment.
FAMILY = 5
SHARES = {"background": 0.52, "colour": 0.22, "lighting": 0.08, "object": 0.08, "placebo": 0.10}
CAPTION_SHARE = 0.15
DROP_TEXT, DROP_IMAGE, DROP_BOTH = 0.06, 0.05, 0.05
# Edits that go a part of the way: instruction and target lie between those of the placebo and those of the edit.
PARTIAL_SHARE = 0.12


def make_editor(tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """Return the untrained UNet and text encoder."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    config = clip_text_config(tokenizer)
    return nn.ModuleDict({"unet": unet, "text": CLIPTextModel(config)})


def make_scheduler() -> DDIMScheduler:
    """Return the noise schedule: v-prediction, zero terminal SNR: white snow and dim light are reachable."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        # The latents are not in [-1, 1]: clipping turns every picture grey.
        clip_sample=False,
        set_alpha_to_one=True,
    )


def train_editor(workshop: Workshop, num_steps: int | None = None) -> nn.ModuleDict:
    """Train on latents of families of composites; every ordered pair that differs in one thing is an edit."""
    recipe = replace(RECIPE, num_steps=num_steps or RECIPE.num_steps)
    families = editor_families(garments_of("zoo", workshop.fashion_mnist))
    latents = editor_latents(workshop, families)
    tokenizer, scheduler = clip_tokenizer(), make_scheduler()
    nothing = tokenizer(
        [PLACEBO_INSTRUCTION], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
    ).input_ids
    editor = make_editor(tokenizer).to(workshop.device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((recipe.seed, step))
        rows, prompts = _draw_edits(rng, families)
        pairs = torch.from_numpy(latents[rows].astype(np.float32)).to(workshop.device)
        source, target = pairs[:, 0], pairs[:, 1]
        drop = rng.random(BATCH_SIZE)
        no_text = drop < DROP_TEXT + DROP_BOTH
        no_image = (drop >= DROP_TEXT) & (drop < DROP_TEXT + DROP_BOTH + DROP_IMAGE)
        prompts = ["" if dropped else prompt for prompt, dropped in zip(prompts, no_text, strict=True)]
        tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        text = editor["text"](tokens.input_ids.to(workshop.device))[0]
        partial = np.where(rng.random(BATCH_SIZE) < PARTIAL_SHARE, rng.random(BATCH_SIZE), 1.0)
        severity = torch.from_numpy(partial.astype(np.float32)).to(workshop.device)
        stay = editor["text"](nothing.to(workshop.device))[0]
        text = torch.lerp(stay.float(), text.float(), severity[:, None, None])
        target = torch.lerp(source, target, severity[:, None, None, None])
        source = source * torch.from_numpy(~no_image).to(source)[:, None, None, None]
        noise = torch.randn(target.shape, generator=generator).to(workshop.device)
        steps = torch.randint(scheduler.config.num_train_timesteps, (BATCH_SIZE,), generator=generator).to(noise.device)
        noisy = scheduler.add_noise(target, noise, steps)
        velocity = scheduler.get_velocity(target, noise, steps)
        predicted = editor["unet"](torch.cat([noisy, source], 1), steps, text).sample.float()
        return F.mse_loss(predicted, velocity), {}

    train(recipe, editor, loss, workshop)
    return editor


def save_editor(workshop: Workshop, folder: Path) -> int:
    """Write the pipeline folder from the last checkpoints, in bf16; return the step it is from."""
    tokenizer = clip_tokenizer()
    editor = make_editor(tokenizer)
    step = averaged(RECIPE, editor, workshop)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=load_vae(workshop).cpu(),
        text_encoder=editor["text"],
        tokenizer=tokenizer,
        unet=editor["unet"],
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.bfloat16)
    pipeline.vae.to(torch.float16)
    pipeline.save_pretrained(folder)
    return step


def editor_families(garments: Garments) -> list[tuple[Scene, ...]]:
    """Return families of FAMILY composites; half of the first ones are biased as a patient's data are."""
    balanced = make_scenes(garments, "editor", NUM_FAMILIES)
    biased = make_scenes(garments, "editor-biased", NUM_FAMILIES, correlation=0.95)
    return [
        _family(pair[index % 4 == 0], garments, np.random.default_rng((1, index)))
        for index, pair in enumerate(zip(balanced, biased, strict=True))
    ]


def editor_latents(workshop: Workshop, families: list[tuple[Scene, ...]]) -> NDArray[np.float16]:
    """Return the latents of all composites, (num_families * FAMILY, 8, 16, 16), made once."""
    path = workshop.folder / "editor_latents.npy"
    if not path.exists():
        garments = garments_of("zoo", workshop.fashion_mnist)
        pictures = editor_pictures(workshop.folder, families, garments)
        vae = load_vae(workshop)
        parts = []
        with torch.no_grad(), workshop.autocast():
            for start in range(0, len(pictures), 128):
                images = to_tensor(pictures[start : start + 128], workshop.device)
                parts.append(vae.encode(images).latents.half().cpu().numpy())
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(parts))
        partial.rename(path)
    return np.asarray(np.load(path))


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


def _draw_edits(rng: np.random.Generator, families: list[tuple[Scene, ...]]) -> tuple[NDArray[np.intp], list[str]]:
    """Return rows of (source, target) latents, (BATCH_SIZE, 2), and their prompts."""
    kinds = rng.choice(list(SHARES), p=list(SHARES.values()), size=BATCH_SIZE)
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
