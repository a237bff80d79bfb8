"""`batch_norm()`: the phases of `ops`, composed once, with one autograd Function around them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import moments, ops, shapes
from .errors import OptionError, StatisticsError
from .ops import activation as activations
from .ops import composite
from .ops.activation import Activation

SMALL = 2**16
"""Up to so many values, PyTorch's own autograd is used: a Function of ours costs more than the
memory it saves is worth (64×64, one thread, forward and backward: 100 µs against 70 µs)."""


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    virtual_batch_size: int | None = None,
) -> Tensor:
    """Normalize every channel, as `torch.nn.functional.batch_norm`; arguments likewise.

    y = activation((x − mean) / √(var + eps) · weight + bias), with the mean and the variance
    (correction 0) of this batch in training, with the running ones otherwise. In training the
    running statistics, if given, are updated in place after everything else has succeeded:
    running = (1 − momentum)·running + momentum·new, where the new variance has correction 1.
    An empty batch leaves them as they are.

    Args:
        input: Activations (N, C, *S), floating, any memory format; the output keeps it.
        running_mean: Running means (C,); required, with `running_var`, unless training.
        running_var: Running variances (C,), correction 1.
        weight: Scale (C,), or None for 1.
        bias: Shift (C,), or None for 0.
        training: Normalize by the statistics of this batch.
        momentum: Weight of the **new** value in the running statistics; a number or a tensor.
        eps: Added to the variance.
        activation: Applied last: "relu", "leaky_relu", "elu", "silu", "gelu", "hardswish",
            "sigmoid", "tanh" with the defaults of torch.nn; None: nothing.
        virtual_batch_size: In training, take the statistics of chunks of about so many
            consecutive samples ("ghost" batch normalization), never of one value. The running
            statistics get one update, with the statistics of the whole batch.

    Returns:
        A tensor like `input`.

    Raises:
        ShapeError: `input` has fewer than two axes, or a vector has not one value per channel.
        StatisticsError: One value per channel in training; no running statistics otherwise.
        OptionError: `activation`, `virtual_batch_size` or `eps` has no valid value.
        TypeError: `input` is not floating point.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> batch_norm(x, None, None, training=True, eps=3.0)  # mean 2, variance 1
        tensor([[-0.5000],
                [ 0.5000]])

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithms 1 and 2; virtual batches: Hoffer,
    Hubara & Soudry 2017 (arXiv:1705.08741), Algorithm 1.
    """
    _check(input, running_mean, running_var, weight, bias, training, eps)
    act = activations.get(activation)
    shapes.check_virtual_batch_size(virtual_batch_size)
    if not training:
        return _normalize_constant(input, running_mean, running_var, weight, bias, act, eps)
    if input.numel() == 0:
        return _normalize_constant(input, None, None, weight, bias, act, eps)
    if virtual_batch_size is None:
        y, mean, var = _normalize_batch(input, weight, bias, act, eps)
    else:
        y = _normalize_virtual(input, weight, bias, act, eps, virtual_batch_size)
    if running_mean is not None and running_var is not None:
        if virtual_batch_size is not None:
            mean, var = _whole_batch(input)
        update_running_(running_mean, running_var, mean, var, momentum)
    return y


def update_running_(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float | Tensor,
) -> None:
    """Move running statistics towards those of a batch, in place.

    Args:
        running_mean: Running means (C,).
        running_var: Running variances (C,), correction 1.
        mean: Means of the batch (C,).
        var: Variances of the batch (C,), correction 1.
        momentum: Weight of the **new** value; a number, or a tensor of one element.

    Example:
        >>> running_mean, running_var = torch.zeros(1), torch.ones(1)
        >>> update_running_(running_mean, running_var, torch.ones(1), torch.full((1,), 2.0), 0.5)
        >>> running_mean, running_var
        (tensor([0.5000]), tensor([1.5000]))
    """
    dtype = running_mean.dtype
    if dtype is mean.dtype and not isinstance(momentum, Tensor):
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var, momentum)
        return
    # In the wider dtype: a half value would lose what a small momentum adds to it.
    dtype = torch.promote_types(dtype, mean.dtype)
    momentum = torch.as_tensor(momentum, dtype=dtype, device=mean.device)
    for running, new in ((running_mean, mean), (running_var, var)):
        running.copy_(running.to(dtype).lerp(new.to(dtype), momentum))


class _Normalize(torch.autograd.Function):
    """All phases as one differentiable step.

    Given `mean` and `invstd`, it takes them for constants and returns the output. Without them it
    takes the statistics of x, and returns their mean and variance (correction 1) as well.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        act: Activation | None,
        eps: float,
        mean: Tensor | None = None,
        invstd: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        y: Tensor
        var = None
        if mean is None or invstd is None:
            y, mean, var, invstd = ops.kernels(x).standardize(x, weight, bias, eps)
        else:
            y = composite.normalize(x, mean, invstd, weight, bias)
        y = _activate(y, act, x.dtype)
        output = y if act is not None and act.from_output else None
        ctx.save_for_backward(x, weight, bias, mean, invstd, output)
        ctx.act, ctx.eps, ctx.constant = act, eps, var is None
        if var is None:
            return y
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, invstd, y = ctx.saved_tensors
        act = ctx.act
        kernels = ops.kernels(x)
        if torch.is_grad_enabled():  # create_graph: the statistics are functions of x again
            kernels = composite
            if not ctx.constant:
                mean, var = composite.stats(x)
                invstd = (var + ctx.eps).rsqrt()
        if act is not None:
            if not act.from_output:
                y = composite.normalize(x, mean, invstd, weight, bias)
            grad_output = act.backward(grad_output.to(y.dtype), y)
        backward = composite.backward_constant if ctx.constant else kernels.backward
        needs = ctx.needs_input_grad[:3]
        grad_input, grad_weight, grad_bias = backward(grad_output, x, mean, invstd, weight, needs)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        return grad_input, grad_weight, grad_bias, None, None, None, None


_apply: Callable[..., Any] = _Normalize.apply


def _activate(z: Tensor, act: Activation | None, dtype: torch.dtype) -> Tensor:
    y = z if act is None else act.forward(z)
    return y if y.dtype is dtype else y.to(dtype)


def _normalize_batch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, act: Activation | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize by the statistics of x; return its mean and variance (correction 1) as well."""
    if ops.kernels(x) is ops.aten and x.numel() <= SMALL:
        z, mean, var, _ = ops.aten.standardize(x, weight, bias, eps)
        return _activate(z, act, x.dtype), mean, var
    y, mean, var = _apply(x, weight, bias, act, eps)
    return y, mean, var


def _normalize_virtual(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    act: Activation | None,
    eps: float,
    size: int,
) -> Tensor:
    """Normalize each virtual batch by itself: chunks become channels."""
    runs = shapes.virtual_batches(x.shape, size)
    # Sizes differ by at most 1, so there are one or two runs of equal chunks.
    pieces = torch.split(x, [samples for samples, _ in runs]) if len(runs) > 1 else (x,)
    outputs = []
    for piece, (_, chunks) in zip(pieces, runs, strict=True):
        folded = shapes.fold_chunks(piece, chunks)
        scale, shift = shapes.fold_vector(weight, chunks), shapes.fold_vector(bias, chunks)
        y, _, _ = _normalize_batch(folded, scale, shift, act, eps)
        outputs.append(shapes.unfold_chunks(y, piece))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def _whole_batch(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and variance (correction 1): what merging all virtual batches would give."""
    mean, var = ops.kernels(x).stats(x.detach())
    count = shapes.count_per_channel(x.shape)
    return mean, var * (count / (count - 1))


def _normalize_constant(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    act: Activation | None,
    eps: float,
) -> Tensor:
    """Normalize by statistics that do not depend on x; None, where x is empty: by any."""
    dtype = moments.statistics_dtype(x)
    if running_mean is None or running_var is None:
        running_mean = running_var = torch.ones(x.shape[1], dtype=dtype, device=x.device)
    invstd = (running_var.to(dtype) + eps).rsqrt()
    if x.numel() <= SMALL:
        z = composite.normalize(x, running_mean.to(dtype), invstd, weight, bias)
        return _activate(z, act, x.dtype)
    # A copy: a training step may change the buffer before the backward pass needs it.
    mean = running_mean.to(dtype, copy=True)
    y: Tensor = _apply(x, weight, bias, act, eps, mean, invstd)
    return y


def _check(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
) -> None:
    shapes.check_input(x)
    vectors = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    shapes.check_per_channel(x, vectors)
    if eps <= 0 and (training or eps < 0):
        raise OptionError(f"expected eps to be positive, found {eps}")
    if (running_mean is None) != (running_var is None):
        raise StatisticsError("expected running_mean and running_var together, found one of them")
    if training and shapes.count_per_channel(x.shape) == 1:
        raise StatisticsError(
            f"expected more than 1 value per channel in training, found 1 "
            f"(input {shapes.shape_text(x.shape)}); use a larger batch, drop the last incomplete "
            f"one (DataLoader(drop_last=True)), or call .eval() to use the running statistics"
        )
    if not training and running_mean is None:
        raise StatisticsError(
            "expected running_mean and running_var outside training, found None; pass them, or "
            "training=True to use the statistics of this batch"
        )
