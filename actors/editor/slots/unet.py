"""The UNet of a pipeline as the slot batcher calls it."""

from collections.abc import Sequence

import torch

from actors.editor.slots.batcher import Prompt
from actors.editor.slots.deep_features import Deep, DeepUNet
from actors.models.device import precision
from actors.models.untyped import Model, Pipeline
from engine.runfile.editor import EditorConfig


class UNet:
    """Run the UNet of a pipeline on rows, each with its own time and prompt.

    `network` is what is called: the UNet, or what runs its outermost level alone where deep features are kept.
    """

    def __init__(self, pipeline: Pipeline, config: EditorConfig) -> None:
        self._unet, self._model, self._device = pipeline.unet, config.model, pipeline.device
        self.network: Model = DeepUNet(pipeline.unet) if config.deep_cache_interval > 1 else pipeline.unet

    def __call__(
        self,
        latents: torch.Tensor,
        times: torch.Tensor,
        prompts: Sequence[Prompt],
        /,
        *deep: Sequence[Deep],
    ) -> torch.Tensor:
        """Return the outputs (num_rows, channels, height, width), float32.

        With `deep`, one a row, the rows use what they keep, or all get it anew.
        """
        # Not unet.dtype, for which diffusers looks at all its modules: a millisecond.
        dtype = self._unet.conv_in.weight.dtype
        # In the UNet's precision here, and not in each attention layer.
        embeddings = torch.stack([prompt.embedding for prompt in prompts]).to(dtype)
        added = None
        if prompts[0].pooled is not None:
            pooled = torch.stack([prompt.pooled for prompt in prompts if prompt.pooled is not None])
            time_ids = torch.stack([prompt.time_ids for prompt in prompts if prompt.time_ids is not None])
            added = {"text_embeds": pooled, "time_ids": time_ids}
        with precision(self._model, self._device):
            inputs = latents.to(dtype)
            if not deep:
                output = self._unet(
                    inputs, times, encoder_hidden_states=embeddings, added_cond_kwargs=added, return_dict=False
                )[0]
            else:
                output = self._with_deep(inputs, times, embeddings, added, *deep)
        return torch.as_tensor(output).float()

    def _with_deep(
        self,
        inputs: torch.Tensor,
        times: torch.Tensor,
        embeddings: torch.Tensor,
        added: dict[str, torch.Tensor] | None,
        deep: Sequence[Deep],
    ) -> torch.Tensor:
        if not deep[0].is_new:
            kept = torch.stack([row.features for row in deep if row.features is not None])
            return torch.as_tensor(self.network(inputs, times, embeddings, added, kept)[0])
        output, features = self.network(inputs, times, embeddings, added)
        for row, made in zip(deep, features, strict=True):
            # A copy of its own: a part of the call's would keep the whole of it in memory.
            row.features = made.clone()
        return torch.as_tensor(output)
