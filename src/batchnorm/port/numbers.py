"""Numbers beside the arrays: eps, momentum of either direction, counts."""

import decimal
import math
import operator
from typing import Any

from ..errors import OptionError

FORGOTTEN = 0.05
"""Share of what an average began with from which on that is forgotten; as `diagnose` has it."""


def number(value: Any, what: str) -> float:
    """Take a finite number for what it is; True is not one.

    Raises:
        OptionError: It is something else.
    """
    try:
        # Of NumPy, JAX and torch, too, but not of text, which float() would read.
        found = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise OptionError(f"expected {what} to be a finite number, found {value!r}")
    return found


def positive(value: Any, what: str) -> float:
    """Take a number that is larger than 0.

    Raises:
        OptionError: It is something else.
    """
    found = number(value, what)
    if found <= 0:
        raise OptionError(f"expected {what} to be larger than 0, found {value!r}")
    return found


def share(value: Any, what: str) -> float:
    """Take a number from 0 to 1, the weight of a value in an average.

    Raises:
        OptionError: It is something else.
    """
    found = number(value, what)
    if not 0 <= found <= 1:
        raise OptionError(f"expected {what} to be from 0 to 1, found {value!r}")
    return found


def turned(momentum: Any, what: str) -> float:
    """Turn the weight of the old value into that of the new one, or back: 1 - momentum.

    In decimals, so that 0.9 becomes 0.1, and 0.1 becomes 0.9 again.

    Raises:
        OptionError: It is not a number from 0 to 1.

    Example:
        >>> turned(0.99, "momentum"), 1 - 0.99
        (0.01, 0.010000000000000009)
        >>> turned(turned(0.1, "momentum"), "momentum")
        0.1
    """
    return float(1 - decimal.Decimal(repr(share(momentum, what))))


def old_weight(momentum: float | None, given: Any, what: str) -> float:
    """Give the weight of the old value for a layer with this momentum.

    Args:
        momentum: Of the layer, the weight of the new value; None for the average of all batches.
        given: What to take instead, a weight of the old value; or None.
        what: What the target calls it.

    Raises:
        OptionError: The layer has none, and none was given; or it is not from 0 to 1.
    """
    if given is not None:
        return share(given, what)
    if momentum is None:
        raise OptionError(
            f"momentum is None, the average of all batches, which only PyTorch has; say which "
            f"{what} (the weight of the old value) the layer is to go on with, e.g. {what}=0.99"
        )
    return turned(momentum, "momentum")


def count(value: Any, what: str) -> int:
    """Take a whole number that is not negative; an array with one is one.

    Raises:
        OptionError: It is something else.
    """
    try:
        found = -1 if isinstance(value, (bool, str, bytes)) else operator.index(_plain(value))
    except (TypeError, ValueError):
        found = -1
    if found < 0:
        raise OptionError(f"expected {what} to be a whole number from 0 on, found {value!r}")
    return found


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def updates_of(momentum: float | None, given: Any) -> int:
    """Say how many updates the statistics are of, where nobody has counted.

    A counter of 0 would let the next batch overwrite them with `momentum=None`, and start the
    warm-up of `Renorm` again; a small one would look like a layer that has hardly begun.

    Returns:
        What was given; else the number after which a new layer has forgotten what it began with.

    Example:
        >>> updates_of(0.1, None), updates_of(0.01, None), updates_of(0.1, 7)
        (29, 299, 7)
    """
    if given is not None:
        return max(1, count(given, "updates"))
    if momentum is None or not 0 < momentum < 1:
        return 1
    return math.ceil(math.log(FORGOTTEN) / math.log1p(-momentum))


def rescaled(correction: int, wanted: int, values: Any) -> float:
    """Give the factor from a variance with one correction to the same with another.

    Args:
        correction: 0 for the mean of squares, 1 for the unbiased one.
        wanted: The same.
        values: Values per channel of the batches, n; None to leave the variance as it is.

    Returns:
        n/(n-1), (n-1)/n or 1.

    Raises:
        OptionError: It is not a number above 1.

    Example:
        >>> rescaled(0, 1, 5), rescaled(1, 0, 5), rescaled(0, 1, None)
        (1.25, 0.8, 1.0)
    """
    if values is None or correction == wanted:
        return 1.0
    n = number(values, "count")
    if n <= 1:
        raise OptionError(
            f"expected count to be the number of values per channel of a training batch (N, or "
            f"N·H·W), more than 1, found {values!r}"
        )
    return n / (n - 1) if wanted else (n - 1) / n


def updates_until(decay: float, left: float) -> int:
    """Say after how many updates no more than `left` remains of what an average began with.

    Raises:
        OptionError: Nothing new counts, or it takes more updates than an int32 can count.

    Example:
        >>> updates_until(0.5, 0.1), updates_until(0.0, 0.1)
        (4, 1)
    """
    found = math.inf if decay >= 1 else 1
    if 0 < decay < 1:
        found = max(1, math.ceil(math.log(left) / math.log(decay)))
    if found >= 2**31:
        raise OptionError(
            f"the weight of the old value is {decay:g}, so an average forgets what it began with "
            f"after {found:g} updates, more than can be counted; say which weight of the old value "
            f"the layer is to go on with"
        )
    return int(found)
