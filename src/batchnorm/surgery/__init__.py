"""Verbs that change the structure of a model; each returns a new one and leaves its own untouched.

`insert` reads the model (`walk`, by the tables of `kinds`), watches it run on an example (`probe`),
decides (`plan`), and edits a copy (`replace`).

`fold` watches a run (`watch`) and asks what was seen (`graph`): which layers a normalization can go
into (`behind`, `ahead`, by the `trail` to them), whether anything forbids it (`obstacles`); it
computes their weights (`absorb`), edits a copy (`draft`, `replace`), and proves it (`prove`).
"""

from .changes import Changes
from .fold import Folded, fold
from .insert import insert

__all__ = ["Changes", "Folded", "fold", "insert"]
