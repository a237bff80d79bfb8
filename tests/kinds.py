"""Every kind of call of `batch_norm`: a value for each of many axes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from batchnorm import reference
from cases import ACTIVATIONS, Layout

MODES = {"train": (True, None), "virtual2": (True, 2), "virtual3": (True, 3), "eval": (False, None)}
AFFINES = {
    "affine": (True, True),
    "plain": (False, False),
    "scale": (True, False),
    "shift": (False, True),
}
LIMITS = {None: None, "clipping": (1.5, 0.7), "wide": (1e3, 1e3)}

AXES: dict[str, list[Any]] = {
    "shape": [
        (12, 5),
        (8, 65),
        (33, 1),
        (1, 4),
        (6, 3, 7),
        (9, 4, 1),
        (4, 3, 5, 6),
        (7, 2, 3, 2),
        (5, 3, 2, 3, 2),
    ],
    "memory": ["contiguous", "channels_last", "transposed", "every_other"],
    "mode": list(MODES),
    "affine": list(AFFINES),
    "mask": [None, "samples", "positions", "nan", "inf", "chunk", "single", "all"],
    "weights": [None, "samples", "positions", "zeros", "tiny", "huge", "half"],
    "renorm": list(LIMITS),
    "activation": list(ACTIVATIONS),
    "residual": [None, "same", "wide"],
    "degenerate": ["raise", "running"],
}

TRAINING_ONLY = {"weights", "renorm", "degenerate"}
HIDES = {
    ("mode", "eval"): TRAINING_ONLY,
    ("mask", "all"): TRAINING_ONLY | {"memory", "affine", "activation", "residual"},
    ("shape", (1, 4)): {"weights", "renorm"},
}
REFUSED = [
    (("shape", (1, 4)), ("degenerate", "raise")),
    (("mask", "single"), ("degenerate", "raise")),
]


@dataclass(frozen=True)
class Kind:
    """One value of every axis."""

    shape: tuple[int, ...]
    memory: str = "contiguous"
    mode: str = "train"
    affine: str = "affine"
    mask: str | None = None
    weights: str | None = None
    renorm: str | None = None
    activation: str | None = None
    residual: str | None = None
    degenerate: str = "raise"

    def __str__(self) -> str:
        options = (self.mask, self.weights, self.renorm, self.activation, self.residual)
        named = zip(("mask", "weights", "renorm", "then", "plus"), options, strict=True)
        return "-".join(
            [str(self.layout), self.mode, self.affine]
            + [f"{name}_{value}" for name, value in named if value]
            + ["or_running"] * (self.degenerate == "running")
        )

    @property
    def layout(self) -> Layout:
        return Layout(self.shape, self.memory)

    @property
    def training(self) -> bool:
        return MODES[self.mode][0]

    @property
    def chunk_sizes(self) -> list[int]:
        """Samples per virtual batch; in evaluation and without them, all."""
        samples, size = self.shape[0], MODES[self.mode][1]
        positions = self.positions.numel() // samples
        return reference.chunk_sizes(samples, positions, size) if size else [samples]

    @property
    def positions(self) -> Tensor:
        """Zeros of the shape (N, *S)."""
        return torch.zeros(self.shape[0], *self.shape[2:])

    def make_mask(self) -> Tensor | None:
        if self.mask is None:
            return None
        samples = self.shape[0]
        if self.mask == "samples":
            return torch.arange(samples) % 4 != 1
        if self.mask in ("positions", "nan", "inf"):
            return _uniform(self.positions, seed=1) < 0.7
        mask = torch.full_like(self.positions, self.mask != "all", dtype=torch.bool)
        if self.mask == "chunk":
            first = self.chunk_sizes[0] if len(self.chunk_sizes) > 1 else samples // 2
            mask[:first] = False
        elif self.mask == "single":
            mask[: self.chunk_sizes[0]] = False
            mask.view(-1)[0] = True
        return mask

    def make_weights(self, dtype: torch.dtype) -> Tensor | None:
        if self.weights is None:
            return None
        weights = 0.2 + _uniform(self.positions, seed=2)
        if self.weights in ("samples", "half"):
            weights = weights.flatten(1)[:, 0] if weights.dim() > 1 else weights
            dtype = torch.bfloat16 if self.weights == "half" else dtype
        elif self.weights == "zeros":
            weights[_uniform(self.positions, seed=3) < 0.3] = 0
            weights.view(-1)[0] = 1
        return weights.to(dtype) * {"tiny": 1e-20, "huge": 1e20}.get(self.weights, 1)

    def values_per_chunk(self) -> list[tuple[int, int]]:
        """How many values a channel has in each chunk, and how many of them count."""
        mask, weights = self.make_mask(), self.make_weights(torch.float64)
        x = torch.zeros(self.shape)
        there, counted = reference.weights(x, mask), reference.weights(x, mask, weights)
        parts = (torch.split(t > 0, self.chunk_sizes) for t in (there, counted))
        return [(int(a.sum()), int(b.sum())) for a, b in zip(*parts, strict=True)]

    @property
    def is_refused(self) -> bool:
        """Whether there are values, but none that counts; or not two in some chunk with values."""
        values = self.values_per_chunk()
        if self.training and any(there for there, _ in values):
            if not any(counted for _, counted in values):
                return True
            if self.degenerate == "raise":
                return any(there > 0 and counted < 2 for there, counted in values)
        return False

    @property
    def is_torchs(self) -> bool:
        """Whether torch.nn.functional can do the same."""
        extra = self.mask or (self.training and (self.weights or self.renorm))
        single = self.training and self.shape == (1, 4)
        return not extra and not single


def _uniform(like: Tensor, seed: int) -> Tensor:
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed))
