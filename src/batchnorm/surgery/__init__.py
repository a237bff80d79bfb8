"""Verbs that change the structure of a model; each returns a new one and leaves its own untouched.

`insert` reads the model (`walk`, by the tables of `kinds`), watches it run on an example (`probe`),
decides (`plan`), and edits a copy (`replace`).
"""

from .changes import Changes
from .insert import insert

__all__ = ["Changes", "insert"]
