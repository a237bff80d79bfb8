"""Verbs that change a model.

Those that change its structure return a new model and leave theirs untouched: `insert` reads the
model (`walk`, by the tables of `kinds`), watches it run on an example (`probe`), decides (`plan`),
and edits a copy (`replace`). `freeze`, `unfreeze` and `recalibrate` change layers in place.
"""

from .changes import Changes
from .freeze import freeze, unfreeze
from .insert import insert
from .recalibrate import recalibrate
from .recalibration import Recalibration

__all__ = ["Changes", "Recalibration", "freeze", "insert", "recalibrate", "unfreeze"]
