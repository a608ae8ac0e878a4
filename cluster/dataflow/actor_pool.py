"""How many shards an actor of Ray Data has at a time, and what that means for the size of its pool."""

from dataclasses import replace

import ray.data

# An actor has one shard at work. Meanwhile it hands over the one before, and has the next one read and unpacked.
SHARDS_IN_FLIGHT = 2


def actor_pool(low: int, high: int) -> ray.data.ActorPoolStrategy:
    """Return a pool of `low` to `high` actors, each of which works on one shard while others come and go."""
    return ray.data.ActorPoolStrategy(
        min_size=low,
        max_size=high,
        max_tasks_in_flight_per_actor=SHARDS_IN_FLIGHT,
        # Ray then fetches and hands over in threads; the stages are still called one at a time, always by one thread.
        max_concurrent_calls_per_actor=SHARDS_IN_FLIGHT,
    )


def scale_as_before(context: ray.data.DataContext) -> None:
    """Let such pools grow and shrink when others do: Ray divides the shards in flight by the calls an actor takes."""
    config = context.autoscaling_config
    context.autoscaling_config = replace(
        config,
        actor_pool_util_upscaling_threshold=config.actor_pool_util_upscaling_threshold / SHARDS_IN_FLIGHT,
        actor_pool_util_downscaling_threshold=config.actor_pool_util_downscaling_threshold / SHARDS_IN_FLIGHT,
    )
