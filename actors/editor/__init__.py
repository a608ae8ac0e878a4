"""The editor stage: the edited image of each source."""
