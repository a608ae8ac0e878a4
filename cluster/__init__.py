"""Where it runs: Ray sessions, dataflow, phases, studies and the command line."""
