"""The layers: torch's constructor, buffers and state_dict around `functional.batch_norm`."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import checks, compose, distributed, shapes
from ..errors import BatchNormError, OptionError, ShapeError
from ..ops import activation as activations
from ..ops import dispatch, fused
from ..ops.affine import Affine
from ..ops.contract import Kernels
from .gathered import Gathered, Replicas
from .names import label
from .recomputation import Memory
from .renorm import Renorm
from .running import NONFINITE, Running

_OURS = {
    "activation": None,
    "virtual_batch_size": None,
    "renorm": None,
    "sync": False,
    "nonfinite": "skip",
    "degenerate": "raise",
}
"""Options that torch does not have, with their defaults."""


class BatchNorm(Running):
    """Batch normalization of an input with any number of axes, (N, C, ...).

    Takes the arguments of `torch.nn.BatchNorm1d` in the same order, and has the same state_dict:
    each loads the other's. Momentum is the weight of the **new** value. With `momentum=None` the
    running statistics are the plain average of those of all batches so far. They stay float32 (or
    float64) where the layer is converted to half precision.

    Args:
        num_features: Number of channels C.
        eps: Added to the variance.
        momentum: Weight of the new value in the running statistics; None for their average.
        affine: Learn a scale, and a shift unless `bias` is False.
        track_running_stats: Keep running statistics; otherwise evaluation uses the batch's, too.
        device: Where parameters and buffers live.
        dtype: Their dtype.
        bias: Learn a shift (only where `affine`).
        activation: Applied last: "relu", "leaky_relu", "elu", "silu", "gelu", "hardswish",
            "sigmoid", "tanh", or None.
        virtual_batch_size: In training, normalize chunks of so many samples, each by its own
            statistics ("ghost" batch normalization).
        renorm: In training, correct the statistics of the batch towards the running ones, within
            the limits of this `Renorm`.
        sync: In training, take the statistics of the batches of all replicas together: True for
            all processes of `torch.distributed`, or a ProcessGroup. Every replica must call the
            layer, also with an empty batch. Without a process group it does nothing.
        nonfinite: What to do where the running statistics of a channel would be updated by a mean
            or variance that is NaN or infinite: "skip" leaves them as they are and counts the
            update they missed in the buffer `num_nonfinite` (not part of the state_dict),
            "propagate" does as torch, "raise" raises (and waits for the device).
        degenerate: What to do in training with one value per channel: "raise", or normalize by
            the "running" statistics and leave them as they are.

    Raises:
        OptionError: An option has no valid value.

    Example:
        >>> layer = BatchNorm(1, activation="relu")
        >>> layer(torch.tensor([[-1.0], [1.0]])).relu().shape
        torch.Size([2, 1])
        >>> layer.running_var  # 0.9·1 + 0.1·2
        tensor([1.1000])

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167); Hoffer, Hubara & Soudry 2017
    (arXiv:1705.08741) for virtual batches.
    """

    activation: str | None
    virtual_batch_size: int | None
    renorm: Renorm | None
    degenerate: str
    _sync: Any = False  # for layers that were pickled before there was such an option
    _ndims: ClassVar[tuple[int, ...]] = ()  # () for any number of at least 2

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        virtual_batch_size: int | None = None,
        renorm: Renorm | None = None,
        sync: distributed.Sync = False,
        nonfinite: str = "skip",
        degenerate: str = "raise",
    ) -> None:
        checks.check_momentum(momentum)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        # torch before 2.13 has no `bias`; removing the parameter works with all.
        if not bias:
            self.register_parameter("bias", None)
        self.set_options(activation, virtual_batch_size, renorm, nonfinite, degenerate, sync)
        self._corrections = Memory()
        self._gathered = Gathered()
        self._site = distributed.Site(f"{type(self).__name__}({num_features})")
        # By this torch.fx decides whether to look inside: as a layer of torch, this is a leaf.
        self.__dict__["__module__"] = torch.nn.BatchNorm1d.__module__

    def set_options(
        self,
        activation: str | None = None,
        virtual_batch_size: int | None = None,
        renorm: Renorm | None = None,
        nonfinite: str = "skip",
        degenerate: str = "raise",
        sync: distributed.Sync = False,
    ) -> None:
        """Set what torch's layer does not have; the arguments are those of the constructor.

        Raises:
            OptionError: An option has no valid value; nothing has changed then.
        """
        activations.get(activation)
        checks.check_virtual_batch_size(virtual_batch_size)
        checks.check_choice("nonfinite", nonfinite, NONFINITE)
        checks.check_choice("degenerate", degenerate, checks.DEGENERATE)
        _check_renorm(renorm)
        held = distributed.check_sync(sync)
        for name, wants in (("renorm", renorm), ('degenerate="running"', degenerate == "running")):
            if wants and not self.track_running_stats:
                raise OptionError(f"{name} needs running statistics: set track_running_stats=True")
        self.activation = activation
        self.virtual_batch_size = virtual_batch_size
        self.renorm = renorm
        self.nonfinite = nonfinite
        self.degenerate = degenerate
        self._sync = held
        self.pin_running_stats()

    @property
    def sync(self) -> distributed.Sync:
        """False, True or the process group over whose replicas statistics are taken."""
        return distributed.same_sync(self._sync)

    @sync.setter
    def sync(self, sync: distributed.Sync) -> None:
        self._sync = distributed.check_sync(sync)

    def reset_parameters(self) -> None:
        """Set weight 1, bias 0 and the running statistics to mean 0, variance 1."""
        self.reset_running_stats()
        for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if parameter is not None:
                torch.nn.init.constant_(parameter, value)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Normalize; in training, update the running statistics once that has succeeded.

        Args:
            input: Activations (N, C, ...), floating.
            residual: Added before the activation; of the shape of `input`.
            mask: Which positions are there, bool (N,) or (N, ...) without the channel axis; the
                others are 0 in the output and move neither statistics nor gradients.
            sample_weight: How much each sample, (N,), or position, (N, ...), counts in the
                statistics of the batch; floating, not negative. Values of weight 0 must be
                finite: `mask` those that are not.

        Returns:
            A tensor like `input`.

        Raises:
            ShapeError: Wrong number of axes or channels, or tensors that do not fit.
            StatisticsError: One value per channel in training (see `degenerate`); a mean or
                variance that is not finite (with `nonfinite="raise"`); weights that are negative,
                not finite or all 0.
            OptionError: `momentum` or `eps` was set to a value that is out of range.
            DtypeError: A tensor holds the wrong kind of values.
        """
        others = self.replicas()
        try:
            if mask is None and sample_weight is None and others is None:
                output = self._at_once(input, residual)
                if output is not None:
                    return output
            return self._normalize(input, residual, mask, sample_weight, others)
        except BatchNormError as error:
            if torch.compiler.is_compiling():
                raise
            if others is not None:
                others.refuse(self.num_features, input)
            name, text = label(self), str(error)
            text = text if text.startswith(name) else f"{name}: {text}"
            raise type(error)(text) from error.__cause__

    def replicas(self) -> Replicas | None:
        """Give those with whom the statistics are taken; None for this process alone."""
        if self._sync is False or not self.is_learning() or checks.is_exporting():
            return None
        call = distributed.replicas(self._sync, self._site, lambda: label(self))
        return None if call is None else self._gathered.keeping(call)

    def _normalize(
        self,
        input: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        sample_weight: Tensor | None,
        others: Replicas | None,
    ) -> Tensor:
        if not checks.is_exporting():
            self._check_input_dim(input)
        running = self.running_stats()
        after = Affine(self.weight, self.bias, residual, activations.get(self.activation))
        if not self.is_learning():
            if running is not None:
                return compose.evaluate(input, running, after, self.eps, mask)
            options = compose.Options(self.eps)
            return compose.train(input, after, options, None, mask, sample_weight)[0]
        checks.check_momentum(self.momentum)
        options = self._options(running)
        given = running, mask, sample_weight
        if others is None:
            output, batch = compose.train(input, after, options, *given)
        else:
            output, batch = compose.train_together(input, after, options, others, *given)
        if running is not None and self.track_running_stats:
            self.learn(batch)
        return output

    def _at_once(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        """Do what is plain in one call of a kernel, which in training moves the running statistics.

        None where there is more to it: nothing has changed then, and `_normalize` does it all.
        """
        kernels = dispatch.fused(input, residual)
        if kernels is None:
            return None
        after = Affine(self.weight, self.bias, residual, activations.get(self.activation))
        if not self._fits(input, after):
            return None
        if self.is_learning():
            return self._step_at_once(input, after, kernels)
        running = self.running_stats()
        if running is None or not kernels.can_move(running, input):
            return None
        return fused.run(input, after, fused.Step(kernels, self.eps, constants=running))

    def _step_at_once(self, input: Tensor, after: Affine, kernels: Kernels) -> Tensor | None:
        if self.virtual_batch_size is not None or self.renorm is not None:
            return None
        moving = self.movable()
        if moving is None or input.numel() == self.num_features:
            return None
        if not kernels.can_move(moving[:2], input):
            return None
        if self.nonfinite == "raise" and not kernels.LOOKS:
            return None
        try:
            output = fused.run(input, after, fused.Step(kernels, self.eps, moving))
        except fused.NotFiniteError:
            return None
        self.note_moved(moving)
        return output

    def _fits(self, input: Tensor, after: Affine) -> bool:
        """Say whether the checks of `_normalize` would find nothing.

        They are repeated as one expression, without messages, as they run on the way of every call
        of a kernel; where they say no, `_normalize` checks again and says what is wrong.
        """
        weight, bias, residual, _ = after
        ndims, features = self._ndims, self.num_features
        each = (features,)
        return (
            self.eps > 0
            and self.degenerate in checks.DEGENERATE
            and (weight is None or weight.shape == each)
            and (bias is None or bias.shape == each)
            and (input.dim() in ndims if ndims else input.dim() >= 2)
            and input.shape[1] == features
            and (residual is None or residual.shape == input.shape)
        )

    def _options(self, running: compose.Pair | None) -> compose.Options:
        limits = None
        tracked = self.num_batches_tracked
        if self.renorm is not None and running is not None and tracked is not None:
            limits = self.renorm.limits(tracked, running[0].dtype)
        options = compose.options(
            self.eps, running, self.virtual_batch_size, limits, self.degenerate
        )
        if options.correct is None:
            return options
        return options._replace(correct=self._corrections.keeping(options.correct))

    def extra_repr(self) -> str:
        """Show torch's options, then ours where they are not the default."""
        ours = [
            f"{name}={getattr(self, name)!r}"
            for name, default in _OURS.items()
            if getattr(self, name) != default
        ]
        parts = {"statistics": self.frozen_statistics, "affine": bool(self.frozen_affine)}
        frozen = [name for name, is_frozen in parts.items() if is_frozen]
        if frozen:
            ours.append(f"frozen={' and '.join(frozen)!r}")
        return ", ".join([super().extra_repr(), *ours])  # type: ignore[no-untyped-call]

    def _check_input_dim(self, input: Tensor) -> None:
        ndim = input.dim()
        if ndim < 2 or (self._ndims and ndim not in self._ndims):
            expected = " or ".join(f"{n}" for n in self._ndims) or "at least 2"
            raise ShapeError(
                f"expected an input with {expected} axes (N, C, ...), "
                f"found {ndim} (input {checks.shape_text(input.shape)})"
            )
        if shapes.num_channels(input) != self.num_features:
            raise ShapeError(
                f"expected {self.num_features} channels at axis 1, "
                f"found {shapes.num_channels(input)} (input {checks.shape_text(input.shape)}); "
                f"set num_features to the size of that axis, or move the channels there"
            )


class BatchNorm1d(BatchNorm, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, for (N, C) and (N, C, L), with the options of `BatchNorm`."""

    _ndims = (2, 3)


class BatchNorm2d(BatchNorm, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, for (N, C, H, W), with the options of `BatchNorm`."""

    _ndims = (4,)


class BatchNorm3d(BatchNorm, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, for (N, C, D, H, W), with the options of `BatchNorm`."""

    _ndims = (5,)


def _check_renorm(renorm: Renorm | None) -> None:
    if not (renorm is None or isinstance(renorm, Renorm)):
        raise OptionError(f"expected renorm to be None or a batchnorm.Renorm, found {renorm!r}")
