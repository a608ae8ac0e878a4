"""The run directory: its files, how a shard is committed, who holds it."""
