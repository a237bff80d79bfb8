"""`batch_norm()`, and the arithmetic of running statistics."""

from typing import Any

import torch
from torch import Tensor

from . import compose, distributed
from .errors import BatchNormError, StatisticsError
from .moments import Estimate, number
from .ops import activation as activations
from .ops.affine import Affine


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
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    virtual_batch_size: int | None = None,
    renorm: tuple[float, float] | None = None,
    degenerate: str = "raise",
    sync: distributed.Sync = False,
) -> Tensor:
    """Normalize every channel, as `torch.nn.functional.batch_norm`; arguments likewise.

    y = activation((x − mean) / √(var + eps) · weight + bias + residual), with the mean and the
    variance (correction 0) of this batch in training, with the running ones otherwise. In training
    the running statistics, if given, are updated in place after everything else has succeeded:
    running = (1 − momentum)·running + momentum·new, where the new variance has correction 1.
    A batch without values leaves them as they are.

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
        residual: Added before the activation; of the shape of the input.
        mask: Which positions are there, bool (N,) or (N, *S). The others are 0 in the output,
            whatever the input holds there, and move neither statistics nor gradients.
        sample_weight: In training, how much each sample, (N,), or position, (N, *S), counts in
            the statistics; floating, not negative, not differentiated. Only ratios matter: the
            unbiased variance is Σw(x − mean)²/Σw · n/(n − 1) with n = (Σw)²/Σw². Values of weight
            0 must be finite: `mask` those that are not.
        virtual_batch_size: In training, take the statistics of chunks of about so many
            consecutive samples ("ghost" batch normalization), never of one value. The running
            statistics get one update, with the statistics of the whole batch.
        renorm: In training, the limits (r_max, d_max) of batch renormalization: within them, the
            output is what the running statistics would give.
        degenerate: What to do in training with one value per channel, or per chunk: "raise", or
            normalize by the "running" statistics, which then stay as they are. Values of `mask`
            and `sample_weight` are looked at only on the CPU and outside compiled graphs; what
            "raise" does not see becomes bias.
        sync: In training, take the statistics of the batches of all replicas together: True for
            all processes, or a `torch.distributed.ProcessGroup`. All of them must call this, also
            with an empty batch. Without a process group it does nothing.

    Returns:
        A tensor like `input`.

    Raises:
        ShapeError: `input` has fewer than two axes, a vector has not one value per channel, or
            another tensor does not fit the input.
        StatisticsError: One value per channel in training; no running statistics where they are
            needed; weights that are negative, not finite or all 0.
        OptionError: An option has no valid value.
        SyncError: Another replica has refused its batch, or cannot be reached.
        DtypeError: `input`, `residual` or `sample_weight` is not floating, or `mask` not bool.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> batch_norm(x, None, None, training=True, eps=3.0)  # mean 2, variance 1
        tensor([[-0.5000],
                [ 0.5000]])

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), Algorithms 1 and 2; virtual batches: Hoffer,
    Hubara & Soudry 2017 (arXiv:1705.08741), Algorithm 1; renormalization: Ioffe 2017
    (arXiv:1702.03275), Algorithm 1.
    """
    after = Affine(weight, bias, residual, activations.get(activation))
    running = _pair(running_mean, running_var)
    if input.shape == (0,):  # torch lets it pass
        return input.clone()
    if not training:
        return compose.evaluate(input, running, after, eps, mask)
    options = compose.options(eps, running, virtual_batch_size, renorm, degenerate)
    others = distributed.replicas(distributed.check_sync(sync), _SITE)
    if others is None:
        y, batch = compose.train(input, after, options, running, mask, sample_weight)
    else:
        y, batch = _together(others, input, after, options, running, mask, sample_weight)
    if running is not None and batch is not None:
        update_running_(*running, batch, momentum)
    return y


def _together(
    others: distributed.Call, input: Tensor, after: Affine, options: compose.Options, *given: Any
) -> tuple[Tensor, Estimate | None]:
    try:
        return compose.train_together(input, after, options, others, *given)
    except BatchNormError:
        others.refuse(input.shape[1] if input.dim() > 1 else 1, input)
        raise


_SITE = distributed.Site("functional.batch_norm")


def update_running_(
    running_mean: Tensor,
    running_var: Tensor,
    batch: Estimate,
    momentum: float | Tensor,
    take: bool | Tensor = True,
) -> None:
    """Move running statistics towards those of a batch, in place.

    Args:
        running_mean: Running means (C,).
        running_var: Running variances (C,), correction 1.
        batch: What the batch says; channels of which it knows nothing stay as they are.
        momentum: Weight of the **new** value; a number, or a tensor of one element or (C,).
        take: Which channels to update, bool (C,), or all.

    Example:
        >>> running_mean, running_var = torch.zeros(1), torch.ones(1)
        >>> batch = Estimate(torch.ones(1), torch.full((1,), 2.0), count=8, effective=8)
        >>> update_running_(running_mean, running_var, batch, 0.5)
        >>> running_mean, running_var
        (tensor([0.5000]), tensor([1.5000]))
    """
    take = take & batch.known if take is not True else batch.known
    if take is False:
        return
    mean, var = batch.mean, batch.var
    dtype = running_mean.dtype
    plain = take is True and batch.finite is True and not isinstance(momentum, Tensor)
    if plain and dtype is mean.dtype:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var, momentum)
        return
    # In the wider dtype: a half value would lose what a small momentum adds to it. Not as lerp,
    # which makes NaN of an infinite new value.
    dtype = torch.promote_types(dtype, mean.dtype)
    momentum = number(momentum, mean, dtype)
    for running, new in ((running_mean, mean), (running_var, var)):
        moved = (1 - momentum) * running.to(dtype) + momentum * new.to(dtype)
        running.copy_(moved if take is True else torch.where(take, moved, running.to(dtype)))


def _pair(running_mean: Tensor | None, running_var: Tensor | None) -> tuple[Tensor, Tensor] | None:
    if running_mean is not None and running_var is not None:
        return running_mean, running_var
    if running_mean is running_var:
        return None
    raise StatisticsError("expected running_mean and running_var together, found one of them")
