"""The perturber stage: a language model invents edits of each caption."""
