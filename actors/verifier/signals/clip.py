"""Images and texts in one space: a CLIP model with its own preparation of both."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from actors.models.batching import padded_batches, padded_tokens
from actors.models.device import precision, upload
from actors.models.files import resolve_model
from actors.models.loading import load_image_processor, load_tokenizer, load_weights
from actors.models.token_encoder import give_tokens
from actors.verifier.signals.network import pixels_of
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig
from engine.sample import Json


class Clip:
    """Embed images and texts as float32 vectors of length 1 (Radford et al. 2021)."""

    def __init__(self, model: ModelConfig, device: torch.device, *, batch_size: int, offline: bool) -> None:
        from transformers import AutoModel

        self.config, self.device, self.batch_size = model, device, batch_size
        files = resolve_model(model, offline)
        self.model = load_weights(AutoModel, files, device)
        if not hasattr(self.model, "get_image_features") or not hasattr(self.model, "get_text_features"):
            raise ModelError(
                f"model {model.name!r} is a {type(self.model).__name__}, which does not embed images and texts in one "
                "space: use a CLIP"
            )
        if self.model.config.model_type == "vision-text-dual-encoder":
            give_tokens(self.model.vision_model)
        self.image_processor = load_image_processor(files)
        self.tokenizer = load_tokenizer(files)
        self.provenance: dict[str, Json] = files.provenance

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return what the model sees of an image (3, height, width). Several threads may call it at once."""
        return pixels_of(self.image_processor, image)

    def images(self, images: Sequence[torch.Tensor]) -> list[NDArray[np.float32]]:
        """Return one embedding for each image, given as `pixels` has it."""
        result: list[NDArray[np.float32]] = []
        for batch, count in padded_batches(images, self.batch_size):
            pixels = upload(torch.stack(batch), self.device).to(self.model.dtype)
            with torch.inference_mode(), precision(self.config, self.device):
                output = self.model.get_image_features(pixel_values=pixels)
            result.extend(_unit_rows(output.pooler_output)[:count])
        return result

    def texts(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return one embedding for each text, by text; what is longer than the model reads is cut."""
        result: dict[str, NDArray[np.float32]] = {}
        for batch, count in padded_batches(texts, self.batch_size):
            length = self.model.config.text_config.max_position_embeddings
            tokens = padded_tokens(self.tokenizer, batch, length).to(self.device)
            with torch.inference_mode(), precision(self.config, self.device):
                output = self.model.get_text_features(**tokens)
            result.update(zip(batch[:count], _unit_rows(output.pooler_output)[:count], strict=True))
        return result


def _unit_rows(rows: torch.Tensor) -> NDArray[np.float32]:
    return torch.nn.functional.normalize(rows.float(), dim=-1).cpu().numpy()
