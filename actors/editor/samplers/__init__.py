"""Samplers: their equations, and the table of coefficients of the steps that a scheduler of diffusers makes."""
