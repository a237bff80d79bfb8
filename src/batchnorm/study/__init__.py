"""Train with and without batch normalization, and judge its five classic promises."""

from .design import Design, make_design
from .ledger import explained
from .run import Progress, run

__all__ = ["Design", "Progress", "explained", "make_design", "run"]
