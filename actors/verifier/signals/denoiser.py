"""A text-conditioned diffusion model that is asked how well a text explains a picture: its error at denoising it."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch

from actors.editor.pipelines.loading import load_pipeline, native_size
from actors.editor.samplers.noising import noised, perfect_prediction
from actors.editor.samplers.solvers import Prediction
from actors.editor.samplers.trajectory import PREDICTIONS
from actors.editor.strategies.families import PIX2PIX
from actors.models.batching import padded_batches, padded_tokens
from actors.models.device import precision, upload
from actors.models.files import ModelFiles, read_json, resolve_model
from actors.models.untyped import Pipeline
from engine.errors import ModelError
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import ModelConfig

PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")


class Noised(NamedTuple):
    """One question: the noise (channels, height, width) that is added at a timestep, and the text's embedding."""

    noise: torch.Tensor
    timestep: int
    embedding: torch.Tensor


class Denoiser:
    """Return errors of a UNet's predictions from noised latents (Ho et al. 2020, eq. 14, without its weights).

    The model is a Stable Diffusion 1 or 2, or an InstructPix2Pix of these, which also sees a whole picture. All batches
    have `num_rows` rows. Raises ModelError for another pipeline.
    """

    def __init__(
        self, model: ModelConfig, device: torch.device, *, num_rows: int, size: int | None, offline: bool
    ) -> None:
        files = resolve_model(model, offline)
        config = EditorConfig(model=model, method=_method(files))
        self._pipeline: Pipeline = load_pipeline(config, files, device)[0]
        self._model, self._device, self._num_rows = model, device, num_rows
        self.provenance = files.provenance
        self.size = size or native_size(self._pipeline)
        settings = self._pipeline.scheduler.config
        self._prediction: Prediction = settings.prediction_type
        kept = getattr(self._pipeline.scheduler, "alphas_cumprod", None)
        if kept is None or self._prediction not in PREDICTIONS:
            raise ModelError(
                f"model {model.name!r} has a {type(self._pipeline.scheduler).__name__} that predicts "
                f"{self._prediction}: expected alphas_cumprod and a prediction of {' or '.join(PREDICTIONS)}"
            )
        # The share of the picture's variance that is left at each timestep, (num_timesteps,).
        self._kept = kept.float().cpu()
        self.num_timesteps = len(kept)
        unet = self._pipeline.unet.config
        self.sees_picture: bool = unet.in_channels == 2 * unet.out_channels

    @torch.inference_mode()
    def latents(self, pictures: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the mean latents (channels, height, width) of pictures (3, size, size) in [0, 1], on the CPU."""
        vae = self._pipeline.vae
        for batch, count in padded_batches(pictures, self._num_rows):
            pixels = upload(2 * torch.stack(batch) - 1, self._device).to(vae.dtype)
            with precision(self._model, self._device):
                output = vae.encode(pixels)
            # Tiny autoencoders give latents, the others a distribution of them.
            mean = output.latents if hasattr(output, "latents") else output.latent_dist.mean
            yield from mean[:count].float().cpu()

    @torch.inference_mode()
    def embeddings(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the embedding (length, dim) of each text, by text."""
        tokenizer, encoder = self._pipeline.tokenizer, self._pipeline.text_encoder
        found: dict[str, torch.Tensor] = {}
        for batch, count in padded_batches(texts, self._num_rows):
            tokens = padded_tokens(tokenizer, batch, tokenizer.model_max_length).to(self._device)
            mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
            with precision(self._model, self._device):
                rows = encoder(tokens.input_ids, attention_mask=mask)[0]
            found.update(zip(batch[:count], rows[:count], strict=True))
        return found

    @torch.inference_mode()
    def errors(self, latents: torch.Tensor, seen: torch.Tensor, questions: Sequence[Noised]) -> Iterator[float]:
        """Yield the mean squared error of each prediction from latents that were noised.

        `seen` are the latents of the picture that an InstructPix2Pix is conditioned on; others do not look at it.
        """
        clean = upload(latents * self._pipeline.vae.config.scaling_factor, self._device)
        condition = upload(seen, self._device)
        unet = self._pipeline.unet
        for batch, count in padded_batches(questions, self._num_rows):
            noise = upload(torch.stack([each.noise for each in batch]), self._device)
            timesteps = torch.tensor([each.timestep for each in batch])
            kept = upload(self._kept[timesteps], self._device)[:, None, None, None]
            rows = noised(clean, noise, kept)
            if self.sees_picture:
                rows = torch.cat((rows, condition.expand(len(rows), -1, -1, -1)), dim=1)
            texts = torch.stack([each.embedding for each in batch])
            with precision(self._model, self._device):
                predicted = unet(rows.to(unet.dtype), upload(timesteps, self._device), texts.to(unet.dtype)).sample
            wanted = perfect_prediction(self._prediction, clean, noise, kept)
            yield from (predicted.float() - wanted).square().mean((1, 2, 3))[:count].tolist()


def _method(files: ModelFiles) -> Literal["instruct", "img2img"]:
    """Return the editor's method that loads a pipeline; raises ModelError, before weights are read, for one unfit."""
    index = read_json(files.folder, "model_index.json") or {}
    unet = read_json(files.folder, "unet/config.json") or {}
    channels = {each: unet.get(f"{each}_channels") for each in ("in", "out")}
    fits = all(isinstance(index.get(part), list) for part in PARTS) and "text_encoder_2" not in index
    if isinstance(own := channels["out"], int):
        fits = fits and channels["in"] in (own, 2 * own)
    if not fits:
        raise ModelError(
            f"model {files.name!r} is a {index.get('_class_name', 'model without model_index.json')} with "
            f"{channels['in']} input and {channels['out']} output channels: a signal of kind diffusion wants a Stable "
            "Diffusion 1 or 2, not for inpainting, or an InstructPix2Pix of these"
        )
    return "instruct" if index["_class_name"] in PIX2PIX else "img2img"
