"""Continuous batching of diffusion: edits at different steps share one UNet call of fixed shape."""
