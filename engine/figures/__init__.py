"""Measured numbers in one form: a table, a JSON file, and the tables of READMEs that are filled from it."""
