"""Shards through the stages as blocks of Ray Data, one commit each."""
