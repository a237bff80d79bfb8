"""One judgement per file: `check(evidence)` gives what it finds."""

from collections.abc import Callable, Iterator

from ...records import Finding
from ..evidence import Evidence
from . import stale_statistics

Rule = Callable[[Evidence], Iterator[Finding]]

RULES: tuple[Rule, ...] = (stale_statistics.check,)
