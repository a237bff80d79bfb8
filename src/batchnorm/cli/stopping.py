"""How a long command ends early, and still leaves what it has."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPPED = 130
"""Exit code after Ctrl-C or a request to terminate, as shells count it."""


@contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Let a batch system that ends the job have the report of what has been found, too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
