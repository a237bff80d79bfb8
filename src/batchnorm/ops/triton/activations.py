"""The activations with the defaults of torch.nn: value at z, and gradient g by the slope at z."""

import triton
import triton.language as tl


@triton.jit
def value(z, ACT: tl.constexpr):
    """Apply an activation."""
    if ACT == "relu":
        z = tl.where(z <= 0, 0.0, z)  # NaN stays NaN
    elif ACT == "leaky_relu":
        z = tl.where(z > 0, z, z * 0.01)
    elif ACT == "elu":
        z = tl.where(z > 0, z, _exponential_minus_one(z))
    elif ACT == "silu":
        z = z * tl.sigmoid(z)
    elif ACT == "gelu":
        z = z * _normal_distribution(z)
    elif ACT == "hardswish":
        z = z * tl.minimum(tl.maximum(z + 3.0, 0.0), 6.0) / 6.0
    elif ACT == "sigmoid":
        z = tl.sigmoid(z)
    elif ACT == "tanh":
        z = _hyperbolic_tangent(z)
    return z


@triton.jit
def gradient(g, z, ACT: tl.constexpr):
    """Multiply a gradient by the slope at z."""
    if ACT == "relu" or ACT == "leaky_relu":
        g = gradient_by_sign(g, passes(z, ACT), ACT)
    elif ACT == "elu":
        g = tl.where(z > 0, g, g * tl.exp(z))
    elif ACT == "silu":
        s = tl.sigmoid(z)
        g = g * s * (1.0 + z * (1.0 - s))
    elif ACT == "gelu":
        density = tl.exp(-0.5 * z * z) * 0.3989422804014327
        g = g * (_normal_distribution(z) + z * density)
    elif ACT == "hardswish":
        inside = tl.where(z > -3.0, g * (z / 3.0 + 0.5), 0.0)
        g = tl.where(z < 3.0, inside, g)
    elif ACT == "sigmoid":
        s = tl.sigmoid(z)
        g = g * s * (1.0 - s)
    elif ACT == "tanh":
        t = _hyperbolic_tangent(z)
        g = g * (1.0 - t * t)
    return g


@triton.jit
def passes(z, ACT: tl.constexpr):
    """Say where the gradient passes unchanged; for ReLU at NaN too, as in torch."""
    if ACT == "leaky_relu":
        return z > 0
    return (z <= 0) == 0


@triton.jit
def gradient_by_sign(g, passed, ACT: tl.constexpr):
    """Multiply a gradient by the slope that a sign tells."""
    if ACT == "leaky_relu":
        return tl.where(passed, g, g * 0.01)
    return tl.where(passed, g, 0.0)


@triton.jit
def _normal_distribution(z):
    return 0.5 * tl.erf(z * 0.7071067811865476) + 0.5


@triton.jit
def _exponential_minus_one(x):
    """Compute it without cancellation, for x <= 0; NaN stays NaN."""
    # The series ends where its next term is below half an ulp at the border.
    series = 1.0 + x * (1.0 / 7.0)
    series = 1.0 + x * (1.0 / 6.0) * series
    series = 1.0 + x * 0.2 * series
    series = 1.0 + x * 0.25 * series
    series = 1.0 + x * (1.0 / 3.0) * series
    series = 1.0 + x * 0.5 * series
    return tl.where(x > -0.35, x * series, tl.exp(x) - 1.0)


@triton.jit
def _hyperbolic_tangent(z):
    e = _exponential_minus_one(-2.0 * tl.abs(z))
    positive = -e / (e + 2.0)
    return tl.where(z < 0, -positive, positive)
