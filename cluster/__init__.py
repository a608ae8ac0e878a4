"""WHERE: Ray sessions, dataflow, fine-tune launch and the command line."""
