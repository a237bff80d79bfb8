"""Edits of a copy of a model, and the proof that it computes what it should."""
