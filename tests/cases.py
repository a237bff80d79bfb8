"""Problems as data, and the tolerance every implementation is held to."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from batchnorm import ops
from interpreter import ALONE, SHARED, interpret

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ACTIVATIONS = (
    None,
    "relu",
    "leaky_relu",
    "elu",
    "silu",
    "gelu",
    "hardswish",
    "sigmoid",
    "tanh",
)
TORCH_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: torch.nn.Identity(),
    "relu": torch.nn.ReLU(),
    "leaky_relu": torch.nn.LeakyReLU(),
    "elu": torch.nn.ELU(),
    "silu": torch.nn.SiLU(),
    "gelu": torch.nn.GELU(),
    "hardswish": torch.nn.Hardswish(),
    "sigmoid": torch.nn.Sigmoid(),
    "tanh": torch.nn.Tanh(),
}
GPU = "gpu"
# Interpreted, a kernel takes a thousand times as long.
TRITON = (
    pytest.param(ALONE, marks=pytest.mark.slow),
    pytest.param(SHARED, marks=pytest.mark.slow),
    pytest.param(GPU, marks=pytest.mark.gpu),
)
ROUTES = ("kernels", "torch-autograd", "function-aten")
ALL_ROUTES = (*ROUTES, "function-composite", "autograd-composite")


def take_route(monkeypatch, route: str) -> None:
    """Make functional.batch_norm compute the way it does where a kernel of ours serves, and for
    small, large and foreign tensors where none does."""
    if route == "kernels":
        need_library()
        return
    if route in (ALONE, SHARED):
        interpret(monkeypatch, route)
        return
    if route == GPU:
        return  # by the device of the tensors
    monkeypatch.setattr(ops.native, "_library", None)
    if route.startswith("function"):
        monkeypatch.setattr(ops.normalize, "SMALL", 0)
    if route.endswith("composite"):
        monkeypatch.setattr(ops.dispatch, "kernels", lambda x: ops.composite)


def need_library() -> None:
    """Skip a test of the C++ kernels where there are none; fail where they must be."""
    if ops.native.library() is None:
        assert "BATCHNORM_REQUIRE_NATIVE" not in os.environ, ops.native.reason()
        pytest.skip(f"no CPU kernels: {ops.native.reason()}")


@dataclass(frozen=True)
class Layout:
    """A shape and the way its values lie in memory."""

    shape: tuple[int, ...]
    memory: str = "contiguous"

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}-{self.memory}"

    def arrange(self, x: Tensor) -> Tensor:
        if self.memory == "channels_last":
            return x.movedim(1, -1).contiguous().movedim(-1, 1)
        if self.memory == "transposed":
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        if self.memory == "every_other":
            return x.repeat_interleave(2, 0).repeat_interleave(2, -1)[::2, ..., ::2]
        return x


LAYOUTS = (
    Layout((8, 5)),
    Layout((2, 3)),
    Layout((33, 1)),
    Layout((16, 65)),
    Layout((7, 6), "transposed"),
    Layout((6, 4), "every_other"),
    Layout((5, 3, 7)),
    Layout((2, 65, 1)),
    Layout((4, 3, 5), "transposed"),
    Layout((4, 3, 5, 2)),
    Layout((4, 3, 5, 6), "channels_last"),
    Layout((9, 1, 2, 3), "channels_last"),
    Layout((3, 4, 2, 5), "every_other"),
    Layout((4, 3, 2, 3, 2)),
    Layout((3, 2, 2, 3, 2), "channels_last"),
)


def assert_derived(
    name: str,
    ours: Tensor,
    torchs: Tensor,
    exact: Tensor,
    dtype: torch.dtype,
    terms: float | Tensor = 0.0,
    condition: float | Tensor = 0.0,
) -> None:
    """Hold the error of every channel to twice torch's own at this dtype and 4 ulp.

    Args:
        name: What is compared, for the message.
        ours: The tensor to judge, (N, C, *S) or (C,).
        torchs: What PyTorch computes for the same problem in the same dtype.
        exact: What the reference computes, in float64.
        dtype: Of the input; its ulp counts for the result, and for
        terms: the size of the largest term of a sum whose result may be small; a number or (C,).
        condition: What an error of one ulp in the dtype of the statistics can grow to; likewise.
    """
    assert ours.shape == exact.shape, f"{name}: {tuple(ours.shape)} is not {tuple(exact.shape)}"
    if not exact.numel():
        return
    error, torch_error = largest(ours.double() - exact), largest(torchs.double() - exact)
    info = torch.finfo(dtype)
    inner = torch.finfo(torch.promote_types(dtype, torch.float32))
    size = torch.maximum(largest(exact), torch.as_tensor(terms, dtype=torch.float64))
    ulp = info.eps * size + inner.eps * condition
    excess = error - (2 * torch_error + 4 * (ulp + info.smallest_normal))
    worst = int(excess.nan_to_num(nan=torch.inf).argmax())
    assert excess[worst] <= 0, (
        f"{name}, channel {worst}: error {error[worst]:.3g}, torch's {torch_error[worst]:.3g}, "
        f"ulp {ulp[worst]:.3g}"
    )


def largest(t: Tensor) -> Tensor:
    """The largest magnitude in every channel of (N, C, *S) or (C,), as (C,) in float64."""
    t = t.double().abs()
    return t if t.dim() == 1 else t.movedim(1, 0).flatten(1).amax(1)
