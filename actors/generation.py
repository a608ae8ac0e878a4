"""Text generation in which each row draws from its own random numbers."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from actors.untyped import Model, Tokenizer


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Add Gumbel noise to scores / temperature, each row from its own generator.

    The largest of logits plus Gumbel noise is an exact sample from the softmax of the logits (Gumbel 1954), so greedy
    decoding afterwards is temperature sampling that does not depend on the other rows of the batch.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return noisy scores, (num_rows, vocabulary) in float32."""
        logits = scores.float() / self.temperature
        uniform = torch.stack(
            [torch.rand(logits.shape[1], generator=item, device=logits.device) for item in self.generators]
        )
        # rand is in [0, 1): 0 would give minus infinity to a token that is then never drawn, which is its due.
        return logits - torch.log(-torch.log(uniform))


def sample_texts(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    temperature: float,
    max_new_tokens: int,
) -> list[str]:
    """Return one continuation for each prompt, sampled at `temperature` with that row's seed."""
    from transformers import GenerationConfig

    tokenizer.padding_side = "left"
    inputs = tokenizer(
        list(prompts), return_tensors="pt", padding=True, pad_to_multiple_of=32, add_special_tokens=False
    ).to(model.device)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    noise = LogitsProcessorList([GumbelNoise(seeds, temperature, model.device)])
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        generation_config=settings,
        logits_processor=noise,
    )
    new_tokens = output[:, inputs["input_ids"].shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(new_tokens, skip_special_tokens=True)]
