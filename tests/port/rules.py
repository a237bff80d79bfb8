"""What the frameworks do to running statistics, once more, in float64 and by the rule alone."""

import numpy as np

EPS32 = np.finfo(np.float32).eps

CHANNELS = 3


def batches(number, shape, axis, seed=0):
    """Batches of pictures or rows, whose channels have different means and variances."""
    generator = np.random.default_rng(seed)
    scale = np.array([0.5, 1.0, 3.0])
    mean = np.array([1.0, 0.0, -2.0])
    found = []
    for _ in range(number):
        x = generator.normal(size=(*shape, CHANNELS)) * scale + mean
        x[0] += 1.0  # the batches are not all alike
        found.append(np.moveaxis(x, -1, axis).astype(np.float32))
    return found


def moments(x, axis):
    """Mean, variance with correction 0, and number of values of each channel."""
    values = np.moveaxis(x.astype(np.float64), axis, 0).reshape(CHANNELS, -1)
    mean = values.sum(1) / values.shape[1]
    return mean, ((values - mean[:, None]) ** 2).sum(1) / values.shape[1], values.shape[1]


def normalized(x, axis, mean, var, weight, bias, eps):
    """The formula of inference."""
    x = np.moveaxis(x.astype(np.float64), axis, -1)
    y = (x - mean) / np.sqrt(np.asarray(var, np.float64) + eps) * weight + bias
    return np.moveaxis(y, -1, axis)


def moved(mean, var, given, axis, decay, correction):
    """Running statistics after more batches: decay is the weight of the old value."""
    mean, var = np.asarray(mean, np.float64), np.asarray(var, np.float64)
    for x in given:
        batch_mean, batch_var, n = moments(x, axis)
        mean = decay * mean + (1 - decay) * batch_mean
        var = decay * var + (1 - decay) * batch_var * n / (n - correction)
    return mean, var


def rounding(given, axis):
    """How far float32 statistics may be off, (C,): sums of n values, and E[x²] − E[x]²."""
    size = 0.0
    for x in given:
        mean, var, _ = moments(x, axis)
        size = np.maximum(size, mean**2 + var)
    return 32 * EPS32 * np.maximum(size, 1.0)
