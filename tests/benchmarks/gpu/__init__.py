"""What an editor makes of a GPU: against its own networks alone, against Ray Data, against the physical limit."""
