"""The report: what a study found, as one HTML page that needs no network.

Drawn from records alone, so that a saved study can be rendered where torch is not installed.
"""

from .page import render, write

__all__ = ["render", "write"]
