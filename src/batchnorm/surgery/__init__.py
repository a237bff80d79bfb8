"""Verbs that change a model.

Those that change its structure return a new model and leave theirs untouched. `fold` and `insert`
see which tensor feeds what on a run of a copy (`graph/`), decide (`folding/`, `insertion/`), and
edit another copy and prove it (`editing/`). Where no child can be added, a layer holds its
normalization itself (`normed`). `freeze`, `unfreeze` and `recalibrate`
(`recalibration/`) change layers in place.
"""

from .changes import Changes
from .folding.fold import Folded, fold
from .freezing import freeze, unfreeze
from .insertion.insert import insert
from .recalibration.recalibrate import recalibrate
from .recalibration.summary import Recalibration

__all__ = [
    "Changes",
    "Folded",
    "Recalibration",
    "fold",
    "freeze",
    "insert",
    "recalibrate",
    "unfreeze",
]
