"""What batch normalization is in every framework: four vectors and three numbers."""

import dataclasses
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from ..errors import BatchNormError, OptionError, PortError
from ..nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from ..nn.batch_norm import BatchNorm
from . import arrays, numbers
from .given import Kind, Vectors, named

CLASSES: dict[int, type[BatchNorm]] = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
"""By the number of spatial axes; 1 takes inputs without one, too."""


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """One batch normalization, as it was trained somewhere, in PyTorch's conventions.

    Vectors have one value for each channel, (C,); any array is taken and copied.

    Args:
        mean: Running mean.
        var: Running variance.
        weight: Scale; None for 1, not learned.
        bias: Shift; None for 0, not learned.
        eps: Added to the variance.
        momentum: Weight of the **new** value in the running statistics; None for their average.
        updates: Batches that the statistics are of; becomes `num_batches_tracked`.
        correction: Of the running variance: 1 for the unbiased one that PyTorch keeps, 0 for the
            mean of squares that most others keep. It makes no difference to inference.
        name: What the layer is called where it comes from; for messages.

    Raises:
        PortError: A value is not finite, or a variance is negative.
        ShapeError: The vectors are not of one length.
        DtypeError: They are not floating point.
        OptionError: A number is out of its range.

    Example:
        >>> state = State([0.0, 1.0], [1.0, 4.0], None, [0.5, 0.5], eps=1e-3, momentum=0.01)
        >>> state.layer(1).bias
        Parameter containing:
        tensor([0.5000, 0.5000], dtype=torch.float64, requires_grad=True)
    """

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    _: dataclasses.KW_ONLY
    eps: float
    momentum: float | None
    updates: int = 1
    correction: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        try:
            self._check()
        except BatchNormError as error:
            raise named(self.name, error) from error.__cause__

    def _check(self) -> None:
        given = {key: getattr(self, key) for key in ("weight", "bias", "mean", "var")}
        read = {k: None if v is None else arrays.read(v, k) for k, v in given.items()}
        for key in ("mean", "var"):
            if read[key] is None:
                raise PortError(f"expected a running {key}, found None")
        arrays.check_vectors(read, "var")
        momentum = self.momentum
        if momentum is not None:
            numbers.turned(momentum, "momentum")
            momentum = float(momentum)
        if self.correction not in (0, 1):
            raise OptionError(f"expected correction to be 0 or 1, found {self.correction!r}")
        read_too = {
            "eps": numbers.positive(self.eps, "eps"),
            "momentum": momentum,
            "updates": numbers.count(self.updates, "updates"),
        }
        for key, value in (read | read_too).items():
            object.__setattr__(self, key, value)

    @property
    def num_features(self) -> int:
        """Number of channels C."""
        return len(self.mean)

    @property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """Of the parameters and of the statistics of a layer that holds all of it exactly."""
        affine = [t.dtype for t in (self.weight, self.bias) if t is not None]
        statistics = torch.promote_types(self.mean.dtype, self.var.dtype)
        dtype = affine[0] if affine else statistics
        for other in affine[1:]:
            dtype = torch.promote_types(dtype, other)
        # Layers keep float32 statistics beside half parameters, and no other mixture.
        if dtype.itemsize < 4 and statistics.itemsize <= 4:
            return dtype, torch.float32
        wide = torch.promote_types(dtype, statistics)
        return wide, wide

    def layer(self, dims: int, dtype: torch.dtype | None = None, **options: Any) -> BatchNorm:
        """Make a layer of it.

        Where there is no scale or no shift, the layer has none that learns: without both it is
        made with `affine=False`, without a shift with `bias=False`, and a scale of 1 that is kept
        has `requires_grad=False`.

        Args:
            dims: Number of spatial axes of its input: 1 for `BatchNorm1d` (also for inputs without
                one), 2, 3.
            dtype: Of parameters and statistics; None for one that holds the values exactly.
            **options: Of the layer, such as `activation` or `sync`.

        Returns:
            A layer of this library, in training mode.

        Raises:
            OptionError: `dims` is something else, or an option has no valid value.
        """
        if dims not in CLASSES or isinstance(dims, bool):
            raise OptionError(
                f"expected dims to be 1, 2 or 3, the number of spatial axes, found {dims!r}"
            )
        affine = self.weight is not None or self.bias is not None
        layer = CLASSES[dims](
            self.num_features,
            self.eps,
            self.momentum,
            affine=affine,
            dtype=dtype or self.dtypes[0],
            bias=self.bias is not None,
            **options,
        )
        self.write(layer)
        return layer

    def write(self, layer: _BatchNorm) -> None:
        """Write it into a layer of as many channels that has what it needs; see `load`."""
        with torch.no_grad():
            for key in ("weight", "bias"):
                parameter, value = getattr(layer, key), getattr(self, key)
                if parameter is not None and value is not None:
                    parameter.copy_(value)
                elif parameter is not None:
                    parameter.fill_(1.0 if key == "weight" else 0.0).requires_grad_(False)
            for key, value in (("running_mean", self.mean), ("running_var", self.var)):
                getattr(layer, key).copy_(value)
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.fill_(self.updates)
        layer.eps, layer.momentum = self.eps, self.momentum

    @classmethod
    def of(cls, layer: nn.Module, name: str = "") -> Self:
        """Read a layer of this library or of torch.

        A scale of 1, or a shift of 0, that has `requires_grad=False` counts as none.

        Args:
            layer: The layer, with running statistics.
            name: What it is called; for messages.

        Raises:
            PortError: It is no batch normalization, has no running statistics or no size yet, or
                has an activation in it.
        """
        try:
            norm = require_norm(layer)
            if getattr(norm, "activation", None) is not None:
                raise PortError(
                    f"the layer has an activation in it ({norm.activation}), which would be lost; "
                    f'give the network as torch has it first: bn.convert(model, to="torch")'
                )
            mean, var = require_statistics(norm)
            tracked = norm.num_batches_tracked
            return cls(
                mean,
                var,
                _learned(norm.weight, 1.0),
                _learned(norm.bias, 0.0),
                eps=norm.eps,
                momentum=norm.momentum,
                updates=1 if tracked is None else int(tracked),
                name=name,
            )
        except BatchNormError as error:
            raise named(name, error) from error.__cause__

    def variance(self, correction: int, count: Any = None) -> Tensor:
        """Give the running variance with another correction.

        Args:
            correction: 0 for the mean of squares, 1 for the unbiased one.
            count: Values per channel of the batches it was averaged over; None to leave it as it
                is, which is right for inference.
        """
        factor = numbers.rescaled(self.correction, correction, count)
        if factor == 1:
            return self.var.clone()
        return (self.var.double() * factor).to(self.var.dtype)

    def with_both(self) -> Self:
        """Give it the weight of 1, or the bias of 0, that it does without."""
        like = next((t for t in (self.weight, self.bias) if t is not None), self.mean)
        weight = torch.ones_like(like) if self.weight is None else self.weight
        bias = torch.zeros_like(like) if self.bias is None else self.bias
        return dataclasses.replace(self, weight=weight, bias=bias)

    def __repr__(self) -> str:
        parts = [f"{self.num_features} channels", f"eps={self.eps:g}"]
        parts.append(f"momentum={'None' if self.momentum is None else f'{self.momentum:g}'}")
        lacks = [key for key in ("weight", "bias") if getattr(self, key) is None]
        parts += [f"no {key}" for key in lacks]
        return f"State({', '.join(parts)}{f', name={self.name!r}' if self.name else ''})"


def require_norm(layer: nn.Module) -> _BatchNorm:
    """Refuse what is no batch normalization, or has no size yet."""
    if not isinstance(layer, _BatchNorm):
        raise PortError(
            f"expected a batch normalization of this library or of torch, found "
            f"{type(layer).__name__}"
        )
    if any(is_lazy(t) for t in (*layer.parameters(False), *layer.buffers(False))):
        raise PortError(
            "the layer is lazy, so the number of channels is not known yet; run one batch through "
            "the model first"
        )
    return layer


def require_statistics(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Refuse a layer without running statistics, or whose tensors have no values."""
    mean, var = layer.running_mean, layer.running_var
    if mean is None or var is None:
        raise PortError(
            "the layer has no running statistics (track_running_stats=False); other frameworks "
            "need them in inference"
        )
    if any(t.is_meta for t in (*layer.parameters(False), *layer.buffers(False))):
        raise PortError("the layer is on the meta device, where tensors have no values")
    return mean, var


def _learned(parameter: Tensor | None, neutral: float) -> Tensor | None:
    """Give a parameter, unless it is kept at what it would be without."""
    if parameter is None:
        return None
    is_kept = not parameter.requires_grad and bool((parameter == neutral).all())
    return None if is_kept else parameter


def as_state(layer: "State | nn.Module", name: str = "") -> State:
    """Take a record as it is, and read a layer."""
    return layer if isinstance(layer, State) else State.of(layer, name)


class Exported(NamedTuple):
    """What another framework needs for one layer."""

    arrays: dict[str, Any]
    """By the names it has for them, in its order."""
    options: dict[str, Any]
    """Arguments of its constructor."""


def ported(
    vectors: Vectors,
    *,
    eps: Any,
    momentum: float,
    updates: Any,
    count: Any,
    correction: int = 0,
    name: str = "",
    eps_name: str = "eps",
) -> State:
    """Make the record of a layer that was read.

    Args:
        vectors: What was read.
        eps: As it was given.
        momentum: Weight of the new value.
        updates: As it was given.
        count: As it was given: with it the variance becomes the unbiased one.
        correction: That of the variance as read.
        name: Of the layer.
        eps_name: What the framework calls eps.
    """
    state = State(
        vectors.mean,
        vectors.var,
        vectors.weight,
        vectors.bias,
        eps=numbers.positive(eps, eps_name),
        momentum=momentum,
        updates=numbers.updates_of(momentum, updates),
        correction=correction,
        name=name,
    )
    if count is None:
        return state
    return dataclasses.replace(state, var=state.variance(1, count), correction=1)


def exported(state: State, kind: Kind, count: Any, correction: int = 0) -> dict[str, Any]:
    """Give the arrays of a layer under the names, and in the order, of a framework."""
    vectors = {
        kind.scale: state.weight,
        kind.offset: state.bias,
        kind.mean: state.mean,
        kind.var: state.variance(correction, count),
    }
    return {name: arrays.write(vector) for name, vector in vectors.items() if vector is not None}
