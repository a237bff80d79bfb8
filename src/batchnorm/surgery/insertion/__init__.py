"""Normalizations put into a network that has none."""
