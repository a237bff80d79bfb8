"""The executable specification: batch normalization as the papers write it, in float64.

Every other implementation is compared with this one, so it shares no code with them: it imports
nothing of this package, and no shipped module imports it. Plain tensors in, plain tuples out,
nothing in place, no care for speed. Inputs are (N, C, *S) with the channel at axis 1, weights w
are (N, *S), statistics are (C,). `step` and `evaluate` compose everything above them.

Sources: [IS] Ioffe & Szegedy 2015, arXiv:1502.03167. [CGL] Chan, Golub & LeVeque 1983, The American
Statistician 37(3). [HHS] Hoffer, Hubara & Soudry 2017, arXiv:1705.08741. [R] Ioffe 2017,
arXiv:1702.03275. [K] Kish 1965, Survey Sampling. [GSL] GNU Scientific Library, reference manual,
Statistics, Weighted Samples.

With weights, every 1/m of [IS] and [R] is the share p = w/Σw of a value; without, p = 1/m.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Moments = tuple[Tensor, Tensor, Tensor, Tensor]
Grads = tuple[Tensor, Tensor, Tensor]
Running = tuple[Tensor, Tensor]
Maybe = Tensor | None
Renorm = tuple[Tensor | float, Tensor | float]

PLAIN: Renorm = (1.0, 0.0)  # r and d of batch normalization itself


class Result(NamedTuple):
    """What a call computes: its output, gradients for a given gradient of it, new statistics."""

    output: Tensor
    grad_input: Tensor
    grad_weight: Tensor
    grad_bias: Tensor
    grad_residual: Tensor
    running_mean: Tensor
    running_var: Tensor


def weights(x: Tensor, mask: Maybe = None, sample_weight: Maybe = None) -> Tensor:
    """Weight of every position, (N, *S); 0 where masked. Both may be (N,) or (N, *S).

    Example:
        >>> weights(torch.zeros(2, 9, 2), torch.tensor([[True, False], [True, True]]))
        tensor([[1., 0.],
                [1., 1.]], dtype=torch.float64)
        >>> weights(torch.zeros(2, 9, 2), sample_weight=torch.tensor([3.0, 0.5]))
        tensor([[3.0000, 3.0000],
                [0.5000, 0.5000]], dtype=torch.float64)
    """
    w = torch.ones(()) if sample_weight is None else sample_weight
    counts = torch.ones(()) if mask is None else mask
    return _times(_positions(counts, x).double(), _positions(w, x).double())


def moments(x: Tensor, w: Maybe = None) -> Moments:
    """Count Σw, mean, Σw(x − mean)² and effective count (Σw)²/Σw² of every channel.

    Without any weight all are 0. A value of weight 0 is not looked at, so it may be NaN.

    Example: 1 three times and 5 once have mean 2; the weights are as uneven as 1.6 equal ones.
        >>> x, w = torch.tensor([[1.0], [5.0]]), torch.tensor([3.0, 1.0])
        >>> [t.item() for t in moments(x)], [t.item() for t in moments(x, w)]
        ([2.0, 3.0, 8.0, 2.0], [4.0, 2.0, 12.0, 1.6])
    """
    rows, w = _rows(x), _column(w, x)
    count = w.sum(0).expand(x.shape[1])  # m
    mean = _over(_times(w, rows).sum(0), count)  # [IS] Alg. 1, line 1
    m2 = _times(w, (rows - mean) ** 2).sum(0)  # [IS] Alg. 1, line 2, times m
    effective = _over(count**2, (w**2).sum(0))  # [K], number of equal weights that tell as much
    return count, mean, m2, effective


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the values of both; either may have none.

    Example:
        >>> one, two = moments(torch.tensor([[1.0], [3.0]])), moments(torch.tensor([[8.0]]))
        >>> [t.item() for t in merge(one, two)]
        [3.0, 4.0, 26.0, 3.0]
    """
    (count_a, mean_a, m2_a, effective_a), (count_b, mean_b, m2_b, effective_b) = a, b
    count = count_a + count_b
    mean = _over(count_a * mean_a + count_b * mean_b, count)  # [CGL] Eq. 1.1, as means
    between = _over((mean_a - mean_b) ** 2 * count_a * count_b, count)  # [CGL] Eq. 1.5, as means
    squares = _over(count_a**2, effective_a) + _over(count_b**2, effective_b)  # Σw²
    return count, mean, m2_a + m2_b + between, _over(count**2, squares)


def var(batch: Moments, correction: int = 0) -> Tensor:
    """Variance; with correction 1 unbiased, for weights as for none. NaN where there is none.

    Example: 12 Σw/((Σw)² − Σw²) = 12 · 4/(16 − 10) is the unbiased one.
        >>> batch = moments(torch.tensor([[1.0], [5.0]]), torch.tensor([3.0, 1.0]))
        >>> round(var(batch).item(), 9), round(var(batch, correction=1).item(), 9)
        (3.0, 8.0)
    """
    count, _, m2, effective = batch
    unbiased = m2 / count * effective / (effective - correction)  # [GSL]
    return unbiased.masked_fill(effective <= correction, math.nan)


def statistics(x: Tensor, w: Maybe = None) -> tuple[Tensor, Tensor]:
    """Mean and variance (correction 0) that normalize x; both 0 where nothing has weight.

    Example:
        >>> [t.item() for t in statistics(torch.tensor([[1.0], [5.0]]), torch.tensor([3.0, 1.0]))]
        [2.0, 3.0]
    """
    count, mean, m2, _ = moments(x, w)
    return mean, _over(m2, count)  # [IS] Alg. 1, lines 1 and 2


def forward(
    x: Tensor, mean: Tensor, var: Tensor, weight: Maybe, bias: Maybe, eps: float, rd: Renorm = PLAIN
) -> Tensor:
    """Normalize by the given statistics, correct by r and d, scale and shift.

    Example: 1 and 3 have mean 2 and variance 1; with eps = 3 the divisor is 2.
        >>> x, one = torch.tensor([[1.0], [3.0]]), torch.ones(1)
        >>> forward(x, 2 * one, one, weight=4 * one, bias=10 * one, eps=3.0)
        tensor([[ 8.],
                [12.]], dtype=torch.float64)
        >>> forward(x, 2 * one, one, weight=4 * one, bias=10 * one, eps=3.0, rd=(3 * one, one))
        tensor([[ 8.],
                [20.]], dtype=torch.float64)
    """
    x_hat = (_rows(x) - mean.double()) / (var.double() + eps) ** 0.5  # [IS] Alg. 1, line 3
    x_hat = x_hat * rd[0] + rd[1]  # [R] Alg. 1, x̂
    y = _or(weight, 1.0) * x_hat + _or(bias, 0.0)  # [IS] Alg. 1, line 4
    return _unrows(y, x)


def forward_train(
    x: Tensor, weight: Maybe, bias: Maybe, eps: float, w: Maybe = None, rd: Renorm = PLAIN
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize by the statistics of x, also where w is 0: output, mean, variance (correction 0).

    Example: 1 three times and 5 once: mean 2, variance 3; with eps = 1 the divisor is 2.
        >>> x, w = torch.tensor([[1.0], [5.0], [9.0]]), torch.tensor([3.0, 1.0, 0.0])
        >>> y, mean, var = forward_train(x, None, None, eps=1.0, w=w)
        >>> y.flatten().tolist(), mean.item(), var.item()
        ([-0.5, 1.5, 3.5], 2.0, 3.0)
    """
    mean, var = statistics(x, w)
    return forward(x, mean, var, weight, bias, eps, rd), mean, var


def backward_train(
    grad_y: Tensor, x: Tensor, weight: Maybe, eps: float, w: Maybe = None, rd: Renorm = PLAIN
) -> Grads:
    """Gradients of input, weight and bias when x is normalized by its own statistics.

    w, r and d are constants. Where both grad_y and w are 0, x may be NaN.

    Example: without eps, 1 and 3 become −1 and 1 whatever their values.
        >>> x, grad_y = torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [2.0]])
        >>> [t.flatten().tolist() for t in backward_train(grad_y, x, None, eps=0.0)]
        [[0.0, 0.0], [-3.0], [7.0]]
    """
    mean, var = statistics(x, w)
    w = _column(w, x)
    p = _over(w, w.sum(0))
    dy, xmu, std2 = _rows(grad_y), _rows(x) - mean, var + eps
    dx_hat = dy * _or(weight, 1.0) * rd[0]  # [IS] Sec. 3, gradients, line 1; [R] for r
    dvar = _times(dx_hat, xmu).sum(0) * -0.5 * std2**-1.5  # [IS] Sec. 3, gradients, line 2
    dmean = -dx_hat.sum(0) / std2**0.5 + dvar * -2 * _times(p, xmu).sum(0)  # [IS] Sec. 3, line 3
    dx = dx_hat / std2**0.5 + dvar * 2 * _times(p, xmu) + dmean * p  # [IS] Sec. 3, line 4
    x_hat = xmu / std2**0.5 * rd[0] + rd[1]  # [R] Alg. 1, x̂
    dweight = _times(dy, x_hat).sum(0)  # [IS] Sec. 3, gradients, line 5
    dbias = dy.sum(0)  # [IS] Sec. 3, gradients, line 6
    return _unrows(dx, x), dweight, dbias


def backward_eval(
    grad_y: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Maybe, eps: float
) -> Grads:
    """Gradients of input, weight and bias when the statistics are constants.

    Example: the derivative of 4 (x − 2)/2 is 2.
        >>> x, one = torch.tensor([[1.0], [5.0]]), torch.ones(1)
        >>> grads = backward_eval(torch.ones(2, 1), x, 2 * one, 3 * one, weight=4 * one, eps=1.0)
        >>> [t.flatten().tolist() for t in grads]
        [[2.0, 2.0], [1.0], [2.0]]
    """
    dy, std = _rows(grad_y), (var.double() + eps) ** 0.5
    x_hat = (_rows(x) - mean.double()) / std
    dx = dy * _or(weight, 1.0) / std  # [IS] Alg. 2, line 11 is linear in x
    return _unrows(dx, x), _times(dy, x_hat).sum(0), dy.sum(0)


def renorm(
    mean: Tensor,
    var: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    r_max: float,
    d_max: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Factor r and offset d that turn normalized values into those by the running statistics.

    Example: standard deviation 6 against 2, mean 7 against 1: r = 3 and d = 3.
        >>> statistics = torch.tensor([[7.0], [36.0], [1.0], [4.0]])
        >>> [t.item() for t in renorm(*statistics, r_max=9.0, d_max=9.0, eps=0.0)]
        [3.0, 3.0]
        >>> [t.item() for t in renorm(*statistics, r_max=2.0, d_max=0.5, eps=0.0)]
        [2.0, 0.5]
    """
    std, running_std = (var.double() + eps) ** 0.5, (running_var.double() + eps) ** 0.5
    r = (std / running_std).clamp(1 / r_max, r_max)  # [R] Alg. 1, r
    d = ((mean.double() - running_mean.double()) / running_std).clamp(-d_max, d_max)  # [R] Alg. 1
    return r, d


def renorm_limits(
    step: int, r_max: float, d_max: float, warmup_steps: int, ramp_steps: int | tuple[int, int]
) -> tuple[float, float]:
    """Limits of r and d after so many batches: (1, 0) in the warm-up, then linear, then constant.

    Example:
        >>> [renorm_limits(step, 3.0, 5.0, 10, (4, 2)) for step in (10, 11, 12, 14, 99)]
        [(1.0, 0.0), (1.5, 2.5), (2.0, 5.0), (3.0, 5.0), (3.0, 5.0)]
    """
    after = max(0, step - warmup_steps)
    ramps = (ramp_steps, ramp_steps) if isinstance(ramp_steps, int) else ramp_steps
    to_r, to_d = (min(1.0, after / ramp) if ramp else float(after > 0) for ramp in ramps)
    return 1 + to_r * (r_max - 1), to_d * d_max  # [R] Sec. 3, gradually relaxed


def drop_nonfinite(batch: Moments) -> Moments:
    """Treat a channel as without values where the mean or the variance is NaN or infinite.

    Example:
        >>> batch = moments(torch.tensor([[1.0, 1.0], [3.0, math.nan]]))
        >>> [t.tolist() for t in drop_nonfinite(batch)]
        [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]
    """
    _, mean, m2, _ = batch
    bad = ~(mean.isfinite() & m2.isfinite())
    count, mean, m2, effective = (t.masked_fill(bad, 0.0) for t in batch)
    return count, mean, m2, effective


def running_update(
    running: Running,
    batch: Moments,
    momentum: float | None,
    *,
    nonfinite: str = "propagate",
    batches: int | Tensor = 0,
) -> tuple[Tensor, Tensor]:
    """Running mean and variance after a batch; momentum is the weight of the new value.

    Channels without two values keep theirs; with nonfinite="skip" also those of `drop_nonfinite`.
    Without a momentum it is the average over the batches, of which there were so many before.

    Example: 1 and 3 have mean 2 and unbiased variance 2.
        >>> running, batch = (torch.zeros(1), torch.ones(1)), moments(torch.tensor([[1.0], [3.0]]))
        >>> [t.item() for t in running_update(running, batch, momentum=0.5)]
        [1.0, 1.5]
        >>> [t.item() for t in running_update(running, batch, momentum=None, batches=3)]
        [0.5, 1.25]
    """
    batch = drop_nonfinite(batch) if nonfinite == "skip" else batch
    _, mean, _, effective = batch
    new = mean, var(batch, 1)  # [IS] Alg. 2, line 10: Var[x] = m/(m−1)·E[σ²]
    share = 1 / (batches + 1) if momentum is None else momentum
    keep = effective <= 1
    running_mean, running_var = (
        torch.where(keep, old.double(), (1 - share) * old.double() + share * value)
        for old, value in zip(running, new, strict=True)  # torch.nn.BatchNorm1d
    )
    return running_mean, running_var


def chunk_sizes(samples: int, positions: int, size: int) -> list[int]:
    """Sizes of the virtual batches: ⌈samples/size⌉ of them, even, each of two values at least.

    Example:
        >>> chunk_sizes(10, 1, 4), chunk_sizes(5, 1, 2), chunk_sizes(3, 9, 1), chunk_sizes(0, 9, 1)
        ([4, 3, 3], [3, 2], [1, 1, 1], [0])
    """
    chunks = max(1, math.ceil(samples / size))
    while chunks > 1 and samples // chunks * positions < 2:
        chunks -= 1
    return [samples // chunks + (k < samples % chunks) for k in range(chunks)]


def virtual_chunks(x: Tensor, size: int | None) -> list[Tensor]:
    """Cut a batch into virtual batches of consecutive samples; into itself without a size."""
    sizes = chunk_sizes(x.shape[0], math.prod(x.shape[2:]), size) if size else [x.shape[0]]
    return list(torch.split(x, sizes))  # [HHS] Alg. 1, line 1


def step(
    x: Tensor,
    grad_y: Tensor,
    running: Running,
    weight: Maybe = None,
    bias: Maybe = None,
    *,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: Maybe = None,
    mask: Maybe = None,
    sample_weight: Maybe = None,
    virtual_batch_size: int | None = None,
    limits: tuple[float, float] | None = None,
    degenerate: str = "raise",
    nonfinite: str = "propagate",
    batches: int | Tensor = 0,
) -> Result:
    """Normalize a batch in training, where grad_y is the gradient of the output.

    `limits` are r_max and d_max of this step, None for no renormalization. Nothing is raised:
    with degenerate="raise" a single value becomes 0, where an implementation may refuse it.

    Example: 1 and 3 become −1 and 1, and 0 and 2 with the residual; at 0 the slope of ReLU is 0.
        >>> x, one, running = torch.tensor([[1.0], [3.0]]), torch.ones(2, 1), torch.zeros(2, 1)
        >>> result = step(x, one, running, momentum=1.0, eps=0.0, activation="relu", residual=one)
        >>> [t.flatten().tolist() for t in result[:5]]
        [[0.0, 2.0], [0.0, 0.0], [1.0], [1.0], [0.0, 1.0]]
        >>> result.running_mean.item(), result.running_var.item()
        (2.0, 2.0)
    """

    def normalize(x: Tensor, w: Tensor) -> _Pass:
        if degenerate == "running" and (w > 0).sum() < 2:
            return _fixed(x, running, weight, bias, eps)
        rd = renorm(*statistics(x, w), *running, *limits, eps) if limits else PLAIN
        z, _, _ = forward_train(x, weight, bias, eps, w, rd)
        return z, lambda grad_z: backward_train(grad_z, x, weight, eps, w, rd)

    w = weights(x, mask, sample_weight)
    chunks = virtual_chunks(x, virtual_batch_size)
    sizes = [len(chunk) for chunk in chunks]
    passes = list(map(normalize, chunks, torch.split(w, sizes)))
    y, grad_z = _finish(torch.cat([z for z, _ in passes]), grad_y, activation, residual, mask)
    grads = [back(dz) for (_, back), dz in zip(passes, torch.split(grad_z, sizes), strict=True)]
    dx, dweight, dbias = zip(*grads, strict=True)
    new = running_update(running, moments(x, w), momentum, nonfinite=nonfinite, batches=batches)
    return Result(y, torch.cat(dx), sum(dweight), sum(dbias), grad_z, *new)


def evaluate(
    x: Tensor,
    grad_y: Tensor,
    running: Running,
    weight: Maybe = None,
    bias: Maybe = None,
    *,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: Maybe = None,
    mask: Maybe = None,
) -> Result:
    """Normalize a batch by the running statistics, where grad_y is the gradient of the output.

    Example:
        >>> x, running = torch.tensor([[1.0], [5.0]]), (torch.tensor([3.0]), torch.tensor([4.0]))
        >>> result = evaluate(x, torch.ones(2, 1), running, eps=0.0, residual=torch.ones(2, 1))
        >>> result.output.tolist(), result.grad_input.tolist(), result.grad_residual.tolist()
        ([[0.0], [2.0]], [[0.5], [0.5]], [[1.0], [1.0]])
    """
    z, backward = _fixed(x, running, weight, bias, eps)
    y, grad_z = _finish(z, grad_y, activation, residual, mask)
    return Result(y, *backward(grad_z), grad_z, *running)


_Pass = tuple[Tensor, Callable[[Tensor], Grads]]


def _fixed(x: Tensor, running: Running, weight: Maybe, bias: Maybe, eps: float) -> _Pass:
    """Normalize by the running statistics; return also what takes the gradient back."""
    z = forward(x, *running, weight, bias, eps)
    return z, lambda grad_z: backward_eval(grad_z, x, *running, weight, eps)


def _finish(
    z: Tensor, grad_y: Tensor, name: str | None, residual: Maybe, mask: Maybe
) -> tuple[Tensor, Tensor]:
    """Output act(z + residual), 0 where masked, and the gradient of z, which is the residual's."""
    z = z + _or(residual, 0.0)
    masked = torch.zeros(()).bool() if mask is None else ~_positions(mask, z).unsqueeze(1)
    y = activate(name, z).masked_fill(masked, 0.0)
    return y, activate_backward(name, grad_y.masked_fill(masked, 0.0), z)


def activate(name: str | None, z: Tensor) -> Tensor:
    """Apply an activation, as torch.nn defines it with its defaults."""
    return _ACTIVATIONS[name][0](z.double())


def activate_backward(name: str | None, grad_y: Tensor, z: Tensor) -> Tensor:
    """Gradient of the input z of an activation."""
    return _times(grad_y.double(), _ACTIVATIONS[name][1](z.double()))


def _sigmoid(z: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-z))


def _normal_cdf(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / math.sqrt(2))) / 2


def _normal_pdf(z: Tensor) -> Tensor:
    return torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _hardswish_slope(z: Tensor) -> Tensor:
    inside = z / 3 + 0.5
    return torch.where(z >= 3, torch.ones_like(z), torch.where(z > -3, inside, torch.zeros_like(z)))


_Function = Callable[[Tensor], Tensor]

# name: (value, derivative); the definitions are those of the torch.nn documentation.
_ACTIVATIONS: dict[str | None, tuple[_Function, _Function]] = {
    None: (lambda z: z, torch.ones_like),
    "relu": (lambda z: z * (z > 0), lambda z: 1.0 * (z > 0)),
    "leaky_relu": (
        lambda z: torch.where(z > 0, z, 0.01 * z),
        lambda z: torch.where(z > 0, torch.ones_like(z), 0.01 * torch.ones_like(z)),
    ),
    "elu": (
        lambda z: torch.where(z > 0, z, torch.exp(z) - 1),
        lambda z: torch.where(z > 0, torch.ones_like(z), torch.exp(z)),
    ),
    "silu": (
        lambda z: z * _sigmoid(z),
        lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z))),
    ),
    "gelu": (lambda z: z * _normal_cdf(z), lambda z: _normal_cdf(z) + z * _normal_pdf(z)),
    "hardswish": (lambda z: z * (z + 3).clamp(0, 6) / 6, _hardswish_slope),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
}


def _rows(x: Tensor) -> Tensor:
    """Values as (N·∏S, C)."""
    return x.double().movedim(1, -1).reshape(-1, x.shape[1])


def _unrows(rows: Tensor, like: Tensor) -> Tensor:
    shape = like.movedim(1, -1).shape
    return rows.reshape(shape).movedim(-1, 1)


def _or(vector: Maybe, default: float) -> Tensor:
    return torch.tensor(default).double() if vector is None else vector.double()


def _positions(values: Tensor, x: Tensor) -> Tensor:
    """One value for all, one per sample (N,) or one per position (N, *S), as (N, *S)."""
    missing = x.dim() - 1 - values.dim()
    return values.reshape(values.shape + (1,) * missing).expand(x.shape[0], *x.shape[2:])


def _column(w: Maybe, x: Tensor) -> Tensor:
    """Weights as (N·∏S, 1); ones without."""
    return (weights(x) if w is None else w.double()).reshape(-1, 1)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """Product; 0 where a is 0, whatever b is there."""
    return (a * b).masked_fill(a == 0, 0.0)


def _over(a: Tensor, b: Tensor) -> Tensor:
    """Quotient; 0 where b is 0."""
    return (a / b).masked_fill(b == 0, 0.0)
