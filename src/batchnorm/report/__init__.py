"""The reports: what a study, a benchmark or a diagnosis found, as one HTML page each, offline.

Drawn from records alone, so that what was saved can be rendered where torch is not installed.
"""

from .bench_page import render_bench, write_bench
from .diagnosis_page import render_diagnosis, write_diagnosis
from .page import render, write

__all__ = [
    "render",
    "render_bench",
    "render_diagnosis",
    "write",
    "write_bench",
    "write_diagnosis",
]
