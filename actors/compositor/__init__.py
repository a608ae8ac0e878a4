"""The stage that edits by cutting and pasting, without a diffusion model."""
