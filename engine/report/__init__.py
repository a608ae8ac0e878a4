"""The report of a run: one self-contained HTML page, and summary.json with every number of the page."""
