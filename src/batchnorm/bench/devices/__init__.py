"""What a benchmark runs on."""

from .device import Device
from .find import find

__all__ = ["Device", "find"]
