"""Checks of the fine-tuning: what DeepSpeed would refuse, when Ray and all models are up."""

from collections.abc import Iterator

from engine.errors import UserError
from engine.plan.plan import Plan
from engine.runfile.run import RunFile
from engine.training.deepspeed import deepspeed_settings


def check_deepspeed(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Raise what is wrong with `reinforce.deepspeed`, where the classifier has weights to train."""
    if run.probe.model is not None:
        deepspeed_settings(run.reinforce)
    yield from ()
