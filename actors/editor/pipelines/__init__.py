"""Diffusers pipelines: loaded and called on batches; edit jobs, masks and lost detail."""
