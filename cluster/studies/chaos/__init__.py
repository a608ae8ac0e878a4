"""Fault injection: kill drivers, workers and nodes of a run and compare every byte."""
