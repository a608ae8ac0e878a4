"""Planted weaknesses: does the probe find them, does training cure them?"""
