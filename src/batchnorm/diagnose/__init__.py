"""Say what is wrong with the batch normalization of a network."""

from .monitor import Monitor

__all__ = ["Monitor"]
