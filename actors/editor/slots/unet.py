"""The UNet of a pipeline as the slot batcher calls it, with a cache of deep features from step to step.

From step to step the output of a UNet's inner levels changes little, so only the outermost level is run anew
(DeepCache: Ma et al. 2024, section 3.2, here with all of the outermost level). It takes 38 % of the operations of
Stable Diffusion 1's UNet, and 7 % of XL's. Pictures differ a little from those of the whole UNet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from actors.models.device import precision
from actors.models.low_rank import LowRankAdapters, ScaledAdapter
from actors.models.untyped import Model, Pipeline
from engine.errors import ModelError
from engine.runfile.fields import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The text conditioning of a UNet: embedding (num_tokens, dim), and for SDXL pooled (dim,) and time_ids (6,).

    `adapter` is the low-rank adapter that the row is run with, if there is one.
    """

    embedding: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None
    adapter: ScaledAdapter | None = None


@dataclass
class DeepFeatures:
    """The cached input of the outermost level for one row: features (channels, height, width).

    If `is_new` the next call computes them, and may be tried again; else it uses them.
    """

    features: torch.Tensor | None = None
    is_new: bool = True


class UNet:
    """Run the UNet of a pipeline on rows, each with its own time and prompt, and with its adapter of `adapters`.

    `network` is the module that is called: the UNet, or a DeepUNet around it if deep features are cached.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        model: ModelConfig,
        *,
        caches_features: bool,
        adapters: LowRankAdapters | None = None,
    ) -> None:
        self._unet, self._model, self._device = pipeline.unet, model, pipeline.device
        self._adapters = adapters or LowRankAdapters(pipeline.unet)
        self.network: Model = DeepUNet(pipeline.unet) if caches_features else pipeline.unet

    def __call__(
        self,
        latents: torch.Tensor,
        times: torch.Tensor,
        prompts: Sequence[Prompt],
        deep: Sequence[DeepFeatures] = (),
        /,
    ) -> torch.Tensor:
        """Return the outputs (num_rows, channels, height, width), float32.

        With `deep`, one for each row, all rows use their features, or all compute them anew.
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
        with precision(self._model, self._device), self._adapters.rows([prompt.adapter for prompt in prompts]):
            inputs = latents.to(dtype)
            if not deep:
                output = self._unet(
                    inputs, times, encoder_hidden_states=embeddings, added_cond_kwargs=added, return_dict=False
                )[0]
            elif deep[0].is_new:
                output, features = self.network(inputs, times, embeddings, added)
                for row, made in zip(deep, features, strict=True):
                    # A copy: a view would keep the features of the whole call in memory.
                    row.features = made.clone()
            else:
                kept = torch.stack([row.features for row in deep if row.features is not None])
                output = self.network(inputs, times, embeddings, added, kept)[0]
        return torch.as_tensor(output).float()


class DeepUNet(nn.Module):
    """A UNet2DConditionModel that runs whole, or its outermost level alone on deep features of an earlier step."""

    def __init__(self, unet: Model) -> None:
        super().__init__()
        config = unet.config
        is_other = config.class_embed_type or config.center_input_sample or unet.time_embed_act or not unet.mid_block
        if is_other or len(unet.down_blocks) < 2:
            raise ModelError(
                "deep_cache_interval is for the UNets of Stable Diffusion 1, 2 and XL, and this one is another: leave "
                "it out"
            )
        self.unet = unet

    def forward(
        self,
        sample: torch.Tensor,
        times: torch.Tensor,
        text: torch.Tensor,
        added: dict[str, torch.Tensor] | None,
        deep: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output and the deep features, which are `deep` if it is given."""
        unet = self.unet
        embedding = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=times))
        more = unet.get_aug_embed(emb=embedding, encoder_hidden_states=text, added_cond_kwargs=added)
        embedding = embedding if more is None else embedding + more
        text = unet.process_encoder_hidden_states(encoder_hidden_states=text, added_cond_kwargs=added)
        outer, last = unet.down_blocks[0], unet.up_blocks[-1]
        sample = unet.conv_in(sample)
        residuals = (sample,)
        inner, made = _run(outer, sample, embedding, text)
        residuals += made
        if deep is None:
            deep = self._inside(inner, residuals, embedding, text)
        sample = _run(last, deep, embedding, text, res_hidden_states_tuple=residuals[: len(last.resnets)])
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(sample))), deep

    def _inside(
        self, sample: torch.Tensor, residuals: tuple[torch.Tensor, ...], embedding: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """Return the output of all levels but the outermost."""
        for block in self.unet.down_blocks[1:]:
            sample, made = _run(block, sample, embedding, text)
            residuals += made
        sample = _run(self.unet.mid_block, sample, embedding, text)
        for block in self.unet.up_blocks[:-1]:
            count = len(block.resnets)
            mine, residuals = residuals[-count:], residuals[:-count]
            # The size of the level that follows, which twice that of this one may exceed.
            size = residuals[-1].shape[2:]
            sample = _run(block, sample, embedding, text, res_hidden_states_tuple=mine, upsample_size=size)
        return sample


def _run(block: Model, sample: torch.Tensor, embedding: torch.Tensor, text: torch.Tensor, **more: object) -> Model:
    if getattr(block, "has_cross_attention", False):
        return block(hidden_states=sample, temb=embedding, encoder_hidden_states=text, **more)
    return block(hidden_states=sample, temb=embedding, **more)
