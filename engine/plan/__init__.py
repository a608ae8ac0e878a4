"""Which source is in which split and which shard, before anything is spent."""
