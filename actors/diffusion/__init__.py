"""The diffusion batcher: many edits, each at its own step, in UNet calls of one shape."""
