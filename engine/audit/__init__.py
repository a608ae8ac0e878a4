"""Checks of a run directory: are its files as its markers say, do two runs have the same bytes?"""
