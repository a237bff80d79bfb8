"""The autograd Function over the CPU kernels: what it keeps, when it is used, what it returns."""

import pytest
import torch

from batchnorm.ops import cpu, dispatch, native
from batchnorm.ops.activation import ACTIVATIONS
from batchnorm.ops.affine import Affine
from batchnorm.ops.normalize import by_batch, by_constants

pytestmark = pytest.mark.native
SHAPE = (4, 16, 12, 12)


def tensors(dtype=torch.float32):
    x, residual = torch.randn(SHAPE, dtype=dtype), torch.randn(SHAPE, dtype=dtype)
    return x.requires_grad_(), residual.requires_grad_(), torch.rand(16), torch.rand(16)


def normalize(phase, x, after):
    if phase == "batch":
        return by_batch(x, after, 1e-5)[0]
    return by_constants(x, torch.zeros(16), torch.ones(16), after, 1e-5)


each_phase = pytest.mark.parametrize("phase", ["batch", "constants"])


@each_phase
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_the_input_and_vectors_are_kept_never_the_output(name, with_residual, dtype, phase):
    x, residual, weight, bias = tensors(dtype)
    after = Affine(weight, bias, residual if with_residual else None, ACTIVATIONS.get(name))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: None):
        y = normalize(phase, x, after)
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    assert y.untyped_storage().data_ptr() not in kept
    size = kept.pop(x.untyped_storage().data_ptr())
    if with_residual and name not in (None, *cpu.SIGNED):
        assert kept.pop(residual.untyped_storage().data_ptr()) == size
    bits = x.numel() / 8 * 1.35 if with_residual and name in cpu.SIGNED else 0  # short planes
    assert sum(kept.values()) <= bits + 8 * 16 * 4  # and some vectors of 16 channels


@each_phase
@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_the_gradient_has_the_gradients_that_torch_computes(name, phase):
    """create_graph, with a residual and without, for the first and the second derivative."""
    for with_residual in (False, True):
        x, residual, weight, bias = tensors()
        weight.requires_grad_(), bias.requires_grad_()
        leaves = [x, weight, bias] + [residual] * with_residual
        act = ACTIVATIONS.get(name)
        y = normalize(phase, x, Affine(weight, bias, residual if with_residual else None, act))
        z = torch.nn.functional.batch_norm(
            x.double(),
            torch.zeros(16).double(),
            torch.ones(16).double(),
            weight.double(),
            bias.double(),
            phase == "batch",
        )
        z = z + residual if with_residual else z
        expected = z if act is None else act.forward(z)
        factor = torch.randn(SHAPE)  # of the plain sum of squares, the gradient is 0
        direction = [torch.randn_like(t) for t in leaves]
        results = []
        for output in (y, expected):
            # The square gives a gradient that itself depends on the leaves.
            grads = torch.autograd.grad((output.square() * factor).sum(), leaves, create_graph=True)
            inner = sum((g * d).sum() for g, d in zip(grads, direction, strict=True))
            results.append((grads, torch.autograd.grad(inner, leaves)))
        for ours, exact in zip(results[0], results[1], strict=True):
            for a, b in zip(ours, exact, strict=True):
                scale = b.abs().max()
                assert (a - b).abs().max() <= 2**-16 * scale


def test_half_precision_weights_get_their_own_gradients():
    x, _, weight, bias = tensors(torch.bfloat16)
    weight, bias = (t.bfloat16().requires_grad_() for t in (weight, bias))
    by_batch(x, Affine(weight, bias), 1e-5)[0].sum().backward()
    assert weight.grad.dtype is bias.grad.dtype is torch.bfloat16
    assert bias.grad.tolist() == [4 * 144] * 16


def test_strided_inputs_and_gradients_are_copied():
    wide = torch.randn(4, 16, 12, 24, requires_grad=True)
    weight = torch.rand(16)
    y = by_batch(wide[..., ::2], Affine(weight), 1e-5)[0]
    assert y.is_contiguous()
    y.backward(torch.ones(()).expand_as(y))
    x = wide.detach()[..., ::2].contiguous().requires_grad_()
    by_batch(x, Affine(weight), 1e-5)[0].backward(torch.ones(SHAPE))
    assert torch.equal(wide.grad[..., ::2], x.grad)


@pytest.mark.parametrize("x", [torch.ones(2, 3).double(), torch.ones(2, 3).half()], ids=str)
def test_other_dtypes_are_not_for_the_kernels(x):
    assert not dispatch.fused(x)


def test_the_kernels_are_for_plain_tensors_only(monkeypatch):
    x = torch.ones(2, 3)
    assert dispatch.fused(x)
    assert dispatch.fused(torch.nn.Parameter(x))
    assert dispatch.fused(x, torch.ones(2, 3))
    assert not dispatch.fused(x, torch.ones(2, 3).bfloat16())  # rounded, it would not be the same
    assert not dispatch.fused(torch.ones(2, 3, device="meta"))
    assert not dispatch.fused(torch.ones(0, 3))
    assert not torch.func.vmap(lambda t: torch.tensor(bool(dispatch.fused(t))))(
        torch.ones(2, 2, 3)
    ).any()
    with torch.autograd.forward_ad.dual_level():
        assert not dispatch.fused(x)
    monkeypatch.setattr(native, "_library", None)
    assert not dispatch.fused(x)
