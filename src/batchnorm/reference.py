"""The executable specification: batch normalization as the papers write it, in float64.

Every other implementation is compared with this one, so it shares no code with them: it imports
nothing of this package, and no shipped module imports it. Plain tensors in, plain tuples out,
nothing in place, no care for speed. Inputs are (N, C, *S) with the channel at axis 1.

Sources: [IS] Ioffe & Szegedy 2015, arXiv:1502.03167. [CGL] Chan, Golub & LeVeque 1983, The American
Statistician 37(3). [HHS] Hoffer, Hubara & Soudry 2017, arXiv:1705.08741.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Moments = tuple[float, Tensor, Tensor]


def moments(x: Tensor) -> Moments:
    """Count, mean and sum of squared deviations of every channel.

    Example:
        >>> moments(torch.tensor([[1.0], [3.0]]))
        (2, tensor([2.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    rows = _rows(x)
    count = rows.shape[0]
    mean = rows.sum(0) / count  # [IS] Alg. 1, line 1
    m2 = ((rows - mean) ** 2).sum(0)  # [IS] Alg. 1, line 2, times m
    return count, mean, m2


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the values of both.

    Example:
        >>> one, two = moments(torch.tensor([[1.0], [3.0]])), moments(torch.tensor([[8.0]]))
        >>> merge(one, two)
        (3, tensor([4.], dtype=torch.float64), tensor([26.], dtype=torch.float64))
    """
    (count_a, mean_a, m2_a), (count_b, mean_b, m2_b) = a, b
    count = count_a + count_b
    mean = (count_a * mean_a + count_b * mean_b) / count  # [CGL] Eq. 1.1, as means
    between = (mean_a - mean_b) ** 2 * count_a * count_b / count  # [CGL] Eq. 1.5, as means
    return count, mean, m2_a + m2_b + between


def forward(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalize by the given statistics, scale and shift.

    Example: 1 and 3 have mean 2 and variance 1; with eps = 3 the divisor is 2.
        >>> x, one = torch.tensor([[1.0], [3.0]]), torch.ones(1)
        >>> forward(x, 2 * one, one, weight=4 * one, bias=10 * one, eps=3.0)
        tensor([[ 8.],
                [12.]], dtype=torch.float64)
    """
    x_hat = (_rows(x) - mean.double()) / (var.double() + eps) ** 0.5  # [IS] Alg. 1, line 3
    y = _or(weight, 1.0) * x_hat + _or(bias, 0.0)  # [IS] Alg. 1, line 4
    return _unrows(y, x)


def forward_train(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize by the statistics of x: output, mean, variance (correction 0)."""
    count, mean, m2 = moments(x)
    var = m2 / count  # [IS] Alg. 1, line 2
    return forward(x, mean, var, weight, bias, eps), mean, var


def running_update(
    running: tuple[Tensor, Tensor], batch: Moments, momentum: float
) -> tuple[Tensor, Tensor]:
    """Running mean and variance after a batch; momentum is the weight of the new value.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> running_update((zero, one), (2, 4 * one, 3 * one), momentum=0.5)
        (tensor([2.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    count, mean, m2 = batch
    var = m2 / (count - 1)  # [IS] Alg. 2, line 10: Var[x] = m/(m−1)·E[σ²]
    new_mean = (1 - momentum) * running[0].double() + momentum * mean  # torch.nn.BatchNorm1d
    new_var = (1 - momentum) * running[1].double() + momentum * var  # torch.nn.BatchNorm1d
    return new_mean, new_var


def backward_train(
    grad_y: Tensor, x: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias when x is normalized by its own statistics."""
    m, mean, m2 = moments(x)
    var = m2 / m
    dy, xmu, std2 = _rows(grad_y), _rows(x) - mean, var + eps
    dx_hat = dy * _or(weight, 1.0)  # [IS] Sec. 3, gradients, line 1
    dvar = (dx_hat * xmu).sum(0) * -0.5 * std2**-1.5  # [IS] Sec. 3, gradients, line 2
    dmean = -dx_hat.sum(0) / std2**0.5 + dvar * -2 * xmu.sum(0) / m  # [IS] Sec. 3, line 3
    dx = dx_hat / std2**0.5 + dvar * 2 * xmu / m + dmean / m  # [IS] Sec. 3, line 4
    dweight = (dy * xmu / std2**0.5).sum(0)  # [IS] Sec. 3, gradients, line 5
    dbias = dy.sum(0)  # [IS] Sec. 3, gradients, line 6
    return _unrows(dx, x), dweight, dbias


def backward_eval(
    grad_y: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias when the statistics are constants."""
    dy, std = _rows(grad_y), (var.double() + eps) ** 0.5
    x_hat = (_rows(x) - mean.double()) / std
    dx = dy * _or(weight, 1.0) / std  # [IS] Alg. 2, line 11 is linear in x
    return _unrows(dx, x), (dy * x_hat).sum(0), dy.sum(0)


def chunk_sizes(samples: int, positions: int, size: int) -> list[int]:
    """Sizes of the virtual batches: ⌈samples/size⌉ of them, even, each of two values at least.

    Example:
        >>> chunk_sizes(10, 1, 4), chunk_sizes(5, 1, 2), chunk_sizes(3, 9, 1)
        ([4, 3, 3], [3, 2], [1, 1, 1])
    """
    chunks = math.ceil(samples / size)
    while chunks > 1 and samples // chunks * positions < 2:
        chunks -= 1
    return [samples // chunks + (k < samples % chunks) for k in range(chunks)]


def virtual_chunks(x: Tensor, size: int) -> list[Tensor]:
    """Cut a batch into virtual batches of consecutive samples."""
    sizes = chunk_sizes(x.shape[0], x[0, 0].numel(), size)
    return list(torch.split(x, sizes))  # [HHS] Alg. 1, line 1


def activate(name: str | None, z: Tensor) -> Tensor:
    """Apply an activation, as torch.nn defines it with its defaults."""
    return _ACTIVATIONS[name][0](z.double())


def activate_backward(name: str | None, grad_y: Tensor, z: Tensor) -> Tensor:
    """Gradient of the input z of an activation."""
    return grad_y.double() * _ACTIVATIONS[name][1](z.double())


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
        lambda z: torch.where(z > 0, 1.0, 0.01).double(),
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


def _or(vector: Tensor | None, default: float) -> Tensor:
    return torch.tensor(default).double() if vector is None else vector.double()
