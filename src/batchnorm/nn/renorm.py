"""Batch renormalization: how far a batch may differ from the running statistics, and when."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError


@dataclass(frozen=True)
class Renorm:
    """Limits of batch renormalization, and the schedule they follow.

    A batch is normalized by its own statistics, then corrected by r and d, so that within the
    limits the output is what the running statistics would give: training and evaluation compute
    the same, also with small batches that are not alike. The schedule is driven by the layer's
    `num_batches_tracked`, so every checkpoint holds its state. The defaults are the paper's.

    Args:
        r_max: The scale is corrected by a factor from 1/r_max to r_max; at least 1.
        d_max: The mean is corrected by up to so many running standard deviations.
        warmup_steps: Batches of plain batch normalization at the beginning.
        ramp_steps: Batches in which the limits then grow to r_max and d_max; one number, or one
            for each.

    Raises:
        OptionError: A value is out of range.

    Example:
        >>> renorm = Renorm(r_max=3.0, d_max=5.0, warmup_steps=10, ramp_steps=20)
        >>> renorm.limits(torch.tensor(20))  # half way
        (tensor(2.), tensor(2.5000))

    Source: Ioffe 2017 (arXiv:1702.03275), Algorithm 1; the schedule, section 4.
    """

    r_max: float = 3.0
    d_max: float = 5.0
    warmup_steps: int = 5_000
    ramp_steps: int | tuple[int, int] = (35_000, 20_000)

    def __post_init__(self) -> None:
        valid = {
            "r_max": (self.r_max, self.r_max >= 1, "at least 1"),
            "d_max": (self.d_max, self.d_max >= 0, "at least 0"),
            "warmup_steps": (self.warmup_steps, _steps(self.warmup_steps), "a number of steps"),
            "ramp_steps": (
                self.ramp_steps,
                all(_steps(n) for n in self._ramps) and len(self._ramps) == 2,
                "a number of steps, or one for each limit",
            ),
        }
        for name, (value, right, expected) in valid.items():
            if not right:
                raise OptionError(f"expected {name} of Renorm to be {expected}, found {value!r}")

    @property
    def _ramps(self) -> tuple[int, ...]:
        return self.ramp_steps if isinstance(self.ramp_steps, tuple) else (self.ramp_steps,) * 2

    def limits(self, step: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Compute r_max and d_max of a step.

        Args:
            step: Number of batches before this one, a tensor of one element; nothing waits for it.
            dtype: Of the result.

        Returns:
            Two tensors of one element.
        """
        after = (step - self.warmup_steps).to(dtype)
        # A ramp of no steps ends at once: the first step after the warm-up is 1.
        r_share, d_share = ((after / max(ramp, 1)).clamp(0, 1) for ramp in self._ramps)
        return 1 + (self.r_max - 1) * r_share, self.d_max * d_share


def _steps(number: object) -> bool:
    return type(number) is int and number >= 0
