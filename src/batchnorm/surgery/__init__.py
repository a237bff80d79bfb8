"""Verbs that change a model.

Those that change its structure return a new model and leave theirs untouched. `fold`, `convert`
and `insert` see which tensor feeds what on a run of a copy (`graph/`), decide (`folding/`,
`conversion/`, `insertion/`), and edit another copy and prove it (`editing/`). Where no child can
be added, a layer holds its normalization itself (`normed`). `freeze`, `unfreeze` and `recalibrate`
(`recalibration/`) change layers in place.
"""

from .changes import Changes
from .conversion.convert import Converted, convert
from .folding.fold import Folded, fold
from .freezing import freeze, unfreeze
from .insertion.insert import insert
from .recalibration.recalibrate import recalibrate
from .recalibration.summary import Recalibration

__all__ = [
    "Changes",
    "Converted",
    "Folded",
    "Recalibration",
    "convert",
    "fold",
    "freeze",
    "insert",
    "recalibrate",
    "unfreeze",
]
