"""The report page, summary.json and the contact sheet of a run."""
