"""What some features together ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import batchnorm as bn

from . import ways
from .feature import Feature
from .steps import CHANNELS, Step, draw_steps

OPTIONS = {"eps": 1e-3, "momentum": 0.3}
LAYERS = {2: bn.BatchNorm1d, 4: bn.BatchNorm2d, 5: bn.BatchNorm3d}


@dataclass(frozen=True)
class Case:
    """What some features together ask for."""

    features: tuple[Feature, ...]
    order: tuple[str, ...] = ("vectorize", "wrap", "outer")
    """What is wrapped around a call, from within."""

    def all(self, name: str) -> list[Any]:
        found = (getattr(feature, name) for feature in self.features)
        return [value for value in found if value]

    def one(self, name: str, default: Any = None) -> Any:
        values = self.all(name)
        assert len(values) < 2, f"two features decide {name}"
        return values[0] if values else default

    @property
    def options(self) -> dict[str, Any]:
        return {k: v for options in (OPTIONS, *self.all("options")) for k, v in options.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        return self.one("shape", (7, CHANNELS, 2, 2))

    @property
    def dtype(self) -> torch.dtype:
        return self.one("dtype", torch.float32)

    def steps(self, member: int) -> list[Step]:
        hooks = [hook for stage in ("insert", "fill") for hook in self.all(stage)]
        drawn = draw_steps(member, self.shape, bool(self.one("pooled")), hooks)
        return [self._as_given(step) for step in drawn]

    def _as_given(self, step: Step) -> Step:
        """Round the tensors of a step, and lay them out."""
        arrange = self.one("arrange", lambda x: x)
        residual = step.residual
        if residual is not None:
            residual = arrange(residual.to(self.one("residual_dtype", self.dtype)))
        x, grad_output = (arrange(t.to(self.dtype)) for t in (step.x, step.grad_output))
        return replace(step, x=x, grad_output=grad_output, residual=residual)

    def refuses(self, step: Step) -> bool:
        """Whether a step is to raise a `StatisticsError`, and to change nothing."""
        tracks = self.options.get("track_running_stats", True)
        if step.single and self.options.get("degenerate") != "running":
            shown = step.mask is None and step.sample_weight is None
            return (step.training or not tracks) and (shown or not self.all("blind"))
        moves = step.training and tracks and not step.quiet
        shown = self.options.get("nonfinite") == "raise" and not self.all("members")
        return step.nan and shown and moves

    def make(self) -> nn.Module:
        layer = self.one("build", ways.eager)(LAYERS[len(self.shape)], **self.options)
        for convert in self.all("convert"):
            layer = convert(layer)
        return layer
