"""The reports: what a study or a benchmark found, as one HTML page that needs no network.

Drawn from records alone, so that what was saved can be rendered where torch is not installed.
"""

from .bench_page import render_bench, write_bench
from .page import render, write

__all__ = ["render", "render_bench", "write", "write_bench"]
