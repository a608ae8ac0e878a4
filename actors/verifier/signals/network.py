"""What signals share whose scores are the outputs of a network that sees images alone."""

from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image

from actors.models.batching import padded_batches
from actors.models.device import precision, upload
from actors.models.files import resolve_model
from actors.models.loading import load_image_processor, load_weights
from actors.models.untyped import Model, Processor
from engine.runfile.fields import ModelConfig
from engine.sample import Json


class ImageNetwork:
    """A network of transformers with its own preparation of images."""

    def __init__(
        self, model_class: Model, model: ModelConfig, device: torch.device, *, batch_size: int, offline: bool
    ) -> None:
        files = resolve_model(model, offline)
        self.config, self.device, self.batch_size = model, device, batch_size
        self.module = load_weights(model_class, files, device)
        self.image_processor = load_image_processor(files)
        self.provenance: dict[str, Json] = files.provenance

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return what the network sees of an image (3, height, width). Several threads may call it at once."""
        return pixels_of(self.image_processor, image)

    def rows(
        self, pixels: Sequence[torch.Tensor], call: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """Yield the row of each image in what `call` returns of a batch of them, (n, dim), as float32."""
        for batch, count in padded_batches(pixels, self.batch_size):
            inputs = upload(torch.stack(batch), self.device).to(self.module.dtype)
            with torch.inference_mode(), precision(self.config, self.device):
                output = call(inputs)
            yield from output.float().flatten(1)[:count].cpu()


def pixels_of(processor: Processor, image: Image.Image) -> torch.Tensor:
    """Return an image as a processor prepares it, (3, height, width)."""
    return torch.as_tensor(processor(images=[image], return_tensors="pt")["pixel_values"][0])
