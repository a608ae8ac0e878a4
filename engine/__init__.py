"""What is computed: records, run file, plan, shards, statistics, report. Imports neither torch nor Ray."""
