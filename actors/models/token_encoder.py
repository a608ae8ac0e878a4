"""Convolutional encoders with the outputs of a transformer, for models whose code expects one."""

from actors.models.untyped import Model


def give_tokens(encoder: Model) -> None:
    """Make an encoder return tokens, (n, height * width, width), and a pool, (n, width), whatever its architecture.

    Convolutional encoders of transformers answer with maps, (n, width, height, width), pools of (n, width, 1, 1), and
    no attentions; encoder-decoders and dual encoders expect a transformer's outputs and fail on them.
    """
    encoder.register_forward_hook(_tokens)


def _tokens(encoder: Model, inputs: object, output: Model) -> Model:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    seen, pool = output.last_hidden_state, getattr(output, "pooler_output", None)
    return BaseModelOutputWithPooling(
        last_hidden_state=seen.flatten(2).transpose(1, 2) if seen.ndim == 4 else seen,
        pooler_output=pool.flatten(1) if pool is not None else None,
        hidden_states=getattr(output, "hidden_states", None),
        attentions=getattr(output, "attentions", None),
    )
