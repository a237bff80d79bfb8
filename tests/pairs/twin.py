"""A layer as its documentation describes it: float64, one channel and one chunk at a time.

It shares no code with the library. Gradients of any order, and tangents, are autograd's of these
plain formulas; the state is Python numbers. What a pair of features does together is decided here
by the order of a few lines, and compared with what the layer does.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

ACTIVATIONS = {None: lambda z: z, "relu": torch.relu, "silu": torch.nn.functional.silu}


class Twin:
    """What a layer with these options is promised to compute and to remember."""

    def __init__(self, channels: int, options: dict) -> None:
        self.options = {"nonfinite": "skip", "degenerate": "raise", **options}
        self.tracks = self.options.get("track_running_stats", True)
        self.channels = channels
        self.training = True
        self.quiet = False
        self.pool: list | None = None
        self.reset()

    def reset(self) -> None:
        """As `reset_running_stats()`."""
        self.mean, self.var = [0.0] * self.channels, [1.0] * self.channels
        self.tracked = 0
        self.load()

    def load(self) -> None:
        """As after loading its own state_dict: what was skipped is forgotten."""
        self.skipped = [0] * self.channels
        self.averaged = [self.tracked] * self.channels

    def state(self) -> dict[str, Tensor]:
        if not self.tracks:
            return {}
        state = {
            "running_mean": torch.tensor(self.mean, dtype=torch.float64),
            "running_var": torch.tensor(self.var, dtype=torch.float64),
            "num_batches_tracked": torch.tensor(self.tracked),
        }
        if self.options["nonfinite"] == "skip":
            state["num_nonfinite"] = torch.tensor(self.skipped)
        return state

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Normalize float64 values (N, C, *S), and learn from them in training."""
        keep = _positions(mask, x).bool()
        counts = keep.double()
        if sample_weight is not None and (self.training or not self.tracks):
            counts = counts * _positions(sample_weight, x)
        columns = []
        for c in range(self.channels):
            values = torch.where(keep, _column(x, c), 0)
            x_hat = torch.cat(
                [self._x_hat(values[rows], counts[rows], c) for rows in self._chunks(x)]
            )
            z = x_hat * (1 if weight is None else weight[c]) + (0 if bias is None else bias[c])
            if residual is not None:
                z = z + torch.where(keep, _column(residual, c), 0)
            y = ACTIVATIONS[self.options.get("activation")](z)
            columns.append(torch.where(keep, y, 0).reshape(x.shape[0], *x.shape[2:]))
        if self.training and self.tracks and not self.quiet:
            self._see([_column(x, c) for c in range(self.channels)], counts)
        return torch.stack(columns, 1)

    def _chunks(self, x: Tensor) -> Iterator[slice]:
        samples, positions = x.shape[0], math.prod(x.shape[2:])
        size = self.options.get("virtual_batch_size") if self.training else None
        chunks = max(1, 1 if size is None else math.ceil(samples / size))
        while chunks > 1 and samples // chunks * positions < 2:
            chunks -= 1
        start = 0
        for k in range(chunks):
            stop = start + samples // chunks + (k < samples % chunks)
            yield slice(start, stop)
            start = stop

    def _x_hat(self, values: Tensor, counts: Tensor, c: int) -> Tensor:
        eps = self.options["eps"]
        if self.tracks and not self.training:
            return (values - self.mean[c]) / math.sqrt(self.var[c] + eps)
        if (counts > 0).sum() < 2:
            if self.options["degenerate"] == "running":
                return (values - self.mean[c]) / math.sqrt(self.var[c] + eps)
            return values * 0
        # 0·NaN would be NaN where a value does not count.
        counted = torch.where(counts > 0, values, 0)
        mean = (counts * counted).sum() / counts.sum()
        var = (counts * (counted - mean) ** 2).sum() / counts.sum()
        x_hat = (values - mean) / (var + eps).sqrt()
        if self.options.get("renorm") is None or not self.training:
            return x_hat
        r_max, d_max = self._limits()
        sigma = math.sqrt(self.var[c] + eps)
        r = ((var.detach() + eps).sqrt() / sigma).clamp(1 / r_max, r_max)
        d = ((mean.detach() - self.mean[c]) / sigma).clamp(-d_max, d_max)
        return x_hat * r + d

    def _limits(self) -> tuple[float, float]:
        renorm = self.options["renorm"]
        past = self.tracked - renorm.warmup_steps
        if past <= 0:
            return 1.0, 0.0
        ramps = renorm.ramp_steps
        shares = [1.0 if ramp == 0 else min(1.0, past / ramp) for ramp in ramps]
        return 1 + shares[0] * (renorm.r_max - 1), shares[1] * renorm.d_max

    def _see(self, columns: list[Tensor], counts: Tensor) -> None:
        """Learn from a batch, or keep its values until `accumulate` ends."""
        taken = counts > 0
        if not taken.any() or (self.pool is None and taken.sum() < 2):
            return
        batch = [(column.detach()[taken].tolist(), counts[taken].tolist()) for column in columns]
        if self.pool is None:
            self._learn([[channel] for channel in batch])
        else:
            self.pool.append(batch)

    def accumulated(self) -> None:
        """As at the end of a `with accumulate(model)` block, which set `pool` to []."""
        pool, self.pool = self.pool, None
        if pool and sum(len(values) for values, _ in (batch[0] for batch in pool)) > 1:
            self._learn(list(zip(*pool, strict=True)))

    def _learn(self, pools: list) -> None:
        """Move the running statistics of every channel by all values of its pool at once."""
        self.tracked += 1
        for c, batches in enumerate(pools):
            values, counts = [], []
            for some, their_counts in batches:
                if self.options["nonfinite"] == "propagate" or all(map(math.isfinite, some)):
                    values += some
                    counts += their_counts
            if len(values) > 1:
                self._move(c, values, counts)
            else:
                self.skipped[c] += 1

    def _move(self, c: int, values: list[float], counts: list[float]) -> None:
        total = math.fsum(counts)
        mean = sum(n * v for n, v in zip(counts, values, strict=True)) / total
        var = sum(n * (v - mean) ** 2 for n, v in zip(counts, values, strict=True)) / total
        effective = total**2 / math.fsum(n**2 for n in counts)
        var *= effective / (effective - 1)
        share = self.options["momentum"]
        self.averaged[c] += 1
        if share is None:
            share = 1 / self.averaged[c]
        self.mean[c] += share * (mean - self.mean[c])
        self.var[c] += share * (var - self.var[c])


def _column(x: Tensor, c: int) -> Tensor:
    """The values of one channel, (N, positions)."""
    return x[:, c].reshape(x.shape[0], math.prod(x.shape[2:]))


def _positions(given: Tensor | None, x: Tensor) -> Tensor:
    """A mask or weights of (N,) or (N, *S), as (N, positions)."""
    shape = x.shape[0], math.prod(x.shape[2:])
    if given is None:
        return torch.ones(shape, dtype=torch.float64)
    each = shape[1] if given.dim() > 1 else 1
    return given.double().reshape(shape[0], each).expand(shape)
