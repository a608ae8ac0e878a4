"""WHAT: records, run file, plan, shard format, selection, statistics and report. Pure Python, no accelerator, no cluster."""
