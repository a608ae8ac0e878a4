"""The files of one shard: tar, rows and marker."""
