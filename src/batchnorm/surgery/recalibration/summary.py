"""What `recalibrate` has done, layer by layer: numbers and text only, printable, and JSON."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recalibrated:
    """One layer."""

    name: str
    """Qualified name."""
    values: float
    """Values of a channel, or the sum of their weights; of the channel that has most."""
    batches: int
    """Batches that had values for the layer."""
    mean_shift: float | None
    """How far the mean moved, in old standard deviations; of the channel that moved most."""
    var_ratio: float | None
    """New over old variance, eps added to both; of the channel that changed most."""
    nonfinite: int
    """Calls whose moments were NaN or infinite and left out; of the channel that has most."""
    left: str | None = None
    """Why the statistics are as they were; None where they are new."""

    def __str__(self) -> str:
        name = self.name or "(model)"
        if self.left is not None:
            return f"{name}: left ({self.left})"
        moved = ""
        if self.mean_shift is not None and self.var_ratio is not None:
            moved = f", mean moved {self.mean_shift:.3g} sd, variance x {self.var_ratio:.3g}"
        skipped = f", {self.nonfinite} calls left out (not finite)" if self.nonfinite else ""
        return f"{name}: {self.values:.7g} values{moved}{skipped}"


@dataclass(frozen=True)
class Recalibration:
    """All layers, in the order of the model's modules.

    Example:
        >>> print(Recalibration((Recalibrated("1", 640.0, 5, 0.25, 1.5, 0),), 1, 5, None, 0.1))
        1: 640 values, mean moved 0.25 sd, variance x 1.5
        1 of 1 layers recalibrated, 1 pass over 5 batches, 0.1 s
    """

    layers: tuple[Recalibrated, ...]
    passes: int
    """How many times the batches were gone through."""
    batches: int
    """How many there were; where passes stopped early, in the longest."""
    converged: bool | None
    """Whether every pass stopped before its last batch; None where that was not asked for."""
    seconds: float

    def __str__(self) -> str:
        done = sum(layer.left is None for layer in self.layers)
        early = {None: "", True: ", converged", False: ", not converged"}[self.converged]
        passes = f"{self.passes} pass" + "es" * (self.passes != 1)
        batches = f"{self.batches} batch" + "es" * (self.batches != 1)
        summary = (
            f"{done} of {len(self.layers)} layers recalibrated, {passes} over {batches}"
            f"{early}, {self.seconds:.2g} s"
        )
        return "\n".join([*map(str, self.layers), summary])
