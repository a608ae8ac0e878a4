"""The captioner stage: a caption for each source."""
