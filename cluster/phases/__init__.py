"""Plan, generate, probe, reinforce and report, each resumable, and their order."""
