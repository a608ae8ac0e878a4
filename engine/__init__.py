"""WHAT: records, run file, plan, shard format, statistics and report. Pure: no accelerator, no cluster."""
