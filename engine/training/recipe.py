"""The recipe of fine-tuning: batches, learning rate, pace of an arm that follows."""

import math
from dataclasses import dataclass

from engine.errors import RunFileError
from engine.runfile.reinforce import ReinforceConfig

# Share of the steps that an arm which follows the generation may make before the last shard is done.
FOLLOWED_SHARE = 0.5
MIN_LOOKS = 4
# Of the real images of a batch with a consistency term, the share that are sources of its edits. Where all are, an arm
# sees no other real images: on garments that no run has, .66 of conflict images are right instead of .78 (weight 1).
PAIRED_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Share:
    """Number of real images and counterfactuals in one worker's micro-batch.

    `paired` of the real images are not drawn by themselves: they are the sources of the first counterfactuals. From
    micro-batch number `until` on it is `then`.
    """

    real: int
    counterfactual: int
    paired: int = 0
    until: int | None = None
    then: "Share | None" = None

    def at(self, number: int) -> "Share":
        """Return the share of micro-batch `number`, from 0."""
        return self if self.until is None or self.then is None or number < self.until else self.then

    def before(self, number: int) -> tuple[int, int]:
        """Return how many real images, without the paired ones, and counterfactuals are drawn before `number`."""
        own = number if self.until is None else min(number, self.until)
        alone, counterfactual = own * (self.real - self.paired), own * self.counterfactual
        if self.then is None:
            return alone, counterfactual
        others = self.then.before(number - own)
        return alone + others[0], counterfactual + others[1]


def nothing_to_learn_from(config: ReinforceConfig) -> str:
    """Return the reason why no arm has an edit to train on: none accepted, or all left out by the run file."""
    limits = {
        f"reinforce.edit_share of {config.edit_share:g}": config.edit_share < 1,
        "reinforce.held_out_phrases": bool(config.held_out_phrases),
    }
    if left_out := " and ".join(name for name, limits_it in limits.items() if limits_it):
        return f"{left_out} leave no accepted counterfactual of a train source to learn from, or none was accepted"
    return "no counterfactual of a train source was accepted: there is nothing to learn from"


def batch_share(settings: ReinforceConfig, arm: str, num_parts: int = 1) -> Share:
    """Return the share of one worker in each of `num_parts` accumulation steps; all arms see as many images."""
    config = settings.of_arm(arm)
    images = config.batch_size // (config.num_workers * num_parts)
    edits = config.arms[arm].edits
    if edits is None:
        return Share(real=images, counterfactual=0)
    if edits.first:
        until = round(edits.first * config.num_steps) * num_parts
        return Share(real=0, counterfactual=images, until=until, then=Share(real=images, counterfactual=0))
    # One counterfactual at least: a small batch must not round the arm to real images alone.
    real = min(round(images * config.replay_ratio), images - 1)
    counterfactual = images - real
    share = 1.0 if config.soft_labels else PAIRED_SHARE if config.consistency else 0.0
    paired = min(math.ceil(share * real), counterfactual)
    return Share(real=real, counterfactual=counterfactual, paired=paired)


def learning_rate(step: int, config: ReinforceConfig) -> float:
    """Return the learning rate at `step` (from 0): linear warm-up, then half a cosine down to 0."""
    warmup = round(config.warmup_share * config.num_steps)
    if step < warmup:
        return config.learning_rate * ((step + 1) / warmup)
    done = (step - warmup) / max(1, config.num_steps - warmup)
    return config.learning_rate * (0.5 * (1 + math.cos(math.pi * done)))


def steps_allowed(config: ReinforceConfig, num_done: int, num_shards: int) -> int:
    """Return how many steps an arm that follows the generation may have made when so many shards are done.

    Half of the steps keep pace with the shards, so that early ones are not drawn too often; the others wait for all.
    """
    if num_done >= num_shards:
        return config.num_steps
    return int(FOLLOWED_SHARE * config.num_steps * num_done / num_shards)


def followed_first(config: ReinforceConfig) -> tuple[str, ...]:
    """Return the arms with the one in front that follows the generation; raise RunFileError where none has edits."""
    with_edits = [name for name, arm in config.arms.items() if arm.edits is not None]
    if not with_edits:
        raise RunFileError(f"reinforce.arms names no arm with edits, so there is nothing to follow: add {config.ships}")
    first = config.ships if config.ships in with_edits else with_edits[0]
    return (first, *(arm for arm in config.arms if arm != first))


def steps_between_looks(config: ReinforceConfig) -> int:
    """Return the steps of an arm that follows between two looks for new shards, and so between its checkpoints."""
    return max(1, min(config.eval_every, int(FOLLOWED_SHARE * config.num_steps) // MIN_LOOKS))


def nothing_came(timeout_s: float, num_done: int, num_shards: int) -> str:
    """Return the message where the generation that is followed seems to have died."""
    return (
        f"no further shard was done for {timeout_s:g} s, {num_done} of {num_shards} are: look whether `counterforge "
        "generate` still runs on this directory. The same command goes on from the last checkpoint; if shards take "
        "longer, raise reinforce.follow_timeout_s"
    )
