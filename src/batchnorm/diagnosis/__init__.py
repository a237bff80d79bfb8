"""What is wrong with a network's batch normalization, with evidence and a remedy.

`run.diagnose` collects `evidence` (`collect`), which `quantities` put into numbers and `rules`
judge; a `Diagnosis` holds it all.
"""

from .diagnosis import Diagnosis
from .run import diagnose

__all__ = ["Diagnosis", "diagnose"]
