"""How the tiny models were trained: `make zoo`."""
