"""The schema of the run file, a file a section, and its loader."""
