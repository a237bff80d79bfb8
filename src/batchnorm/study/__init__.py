"""Train with and without batch normalization, and judge its five classic promises."""

from .design import Design, make_design
from .ledger import explained
from .run import Progress, run
from .shard import Shard

__all__ = ["Design", "Progress", "Shard", "explained", "make_design", "run"]
