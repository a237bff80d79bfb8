"""What is wrong with a network's batch normalization, with evidence and a remedy.

`run.diagnose` collects `evidence` (`collect`), which `quantities` put into numbers and `rules`
judge; a `Diagnosis` holds it all. `Monitor` measures some
of it while a network trains.
"""

from .diagnosis import Diagnosis
from .monitor import Monitor
from .run import diagnose

__all__ = ["Diagnosis", "Monitor", "diagnose"]
