"""Diffusers pipelines: loaded, called on batches, and what goes around a call."""
