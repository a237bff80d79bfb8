"""Batch normalization to and from other frameworks, in plain arrays; none of them is imported.

`from_*` reads the arrays of one layer into a `State`, the record that all of them share, in
PyTorch's conventions; `to_*` writes a layer, or a record, for one of them. `load` fills the layers
of a whole model, `check` compares outputs. What differs between frameworks stands in one file each.
"""

from .check import check
from .equinox import from_equinox, to_equinox
from .flax import from_flax, linen_collections, split_flax, to_flax
from .haiku import from_haiku, split_haiku, to_haiku
from .keras import from_keras, split_keras, to_keras
from .load import load, states
from .onnx import from_onnx, to_onnx
from .state import Exported, State
from .tf_keras import from_tf_keras, to_tf_keras

__all__ = [
    "Exported",
    "State",
    "check",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "from_tf_keras",
    "linen_collections",
    "load",
    "split_flax",
    "split_haiku",
    "split_keras",
    "states",
    "to_equinox",
    "to_flax",
    "to_haiku",
    "to_keras",
    "to_onnx",
    "to_tf_keras",
]
