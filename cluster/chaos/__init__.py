"""Chaos: run a plan under faults on this machine, and compare what it leaves with an undisturbed run of it."""
