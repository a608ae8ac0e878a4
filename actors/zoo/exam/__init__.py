"""How good the tiny models are: `make zoo-eval`."""
