"""Where a classifier fails: statistics over its answers to sources, placebos and edits."""
