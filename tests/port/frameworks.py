"""Every framework behind one interface: trained layers, their inference, further training."""

from typing import ClassVar

import numpy as np

from batchnorm import port

from . import apart

WEIGHT = np.array([1.5, -0.5, 0.25], np.float32)
BIAS = np.array([0.5, 0.0, -1.0], np.float32)
DECAY, EPS = 0.9, 2e-3
"""Neither a framework's default."""


class Framework:
    """One kind of layer.

    Args:
        ndim: Axes of its input.
    """

    axis = -1
    name = ""

    def __init__(self, ndim):
        self.ndim = ndim

    def __repr__(self):
        return f"{self.name}-{self.ndim}d"

    @property
    def dims(self):
        return max(self.ndim - 2, 1)

    @property
    def shape(self):
        return {2: (12,), 4: (4, 3, 2)}[self.ndim]


class Keras(Framework):
    name = "keras"
    options: ClassVar = {"momentum": DECAY, "epsilon": EPS}

    def train(self, arrays, options, given):
        if arrays is None:
            start = port.to_keras(_fresh())
            arrays, options = start.arrays, {**start.options, **self.options}
        return apart.keras().train(arrays, options, given)[0], options

    def infer(self, arrays, options, x):
        return apart.keras().infer(arrays, options, x)

    def read(self, arrays, options, **more):
        return port.from_keras(arrays, **options, **more)

    def write(self, layer, **more):
        return port.to_keras(layer, **more)

    def statistics(self, arrays):
        return arrays["moving_mean"], arrays["moving_variance"]


class Linen(Framework):
    name = "linen"
    options: ClassVar = {"momentum": DECAY, "epsilon": EPS, "use_scale": True, "use_bias": True}

    def train(self, arrays, options, given):
        if arrays is None:
            start = port.to_flax(_fresh())
            arrays, options = port.linen_collections(start.arrays), self.options
        return apart.jax().linen_train(arrays, options, given)[0], options

    def infer(self, arrays, options, x):
        return apart.jax().linen_infer(arrays, options, x)

    def read(self, arrays, options, **more):
        return port.from_flax(arrays, **options, **more)

    def write(self, layer, **more):
        arrays, options = port.to_flax(layer, **more)
        return port.linen_collections(arrays), options

    def statistics(self, arrays):
        return arrays["batch_stats"]["mean"], arrays["batch_stats"]["var"]


class Nnx(Linen):
    name = "nnx"

    def train(self, arrays, options, given):
        if arrays is None:
            arrays, options = port.to_flax(_fresh()).arrays, self.options
        return apart.jax().nnx_train(arrays, options, given)[0], options

    def infer(self, arrays, options, x):
        return apart.jax().nnx_infer(arrays, options, x)

    def write(self, layer, **more):
        return port.to_flax(layer, **more)

    def statistics(self, arrays):
        return arrays["mean"], arrays["var"]


class Haiku(Framework):
    name = "haiku"
    options: ClassVar = {
        "create_scale": True,
        "create_offset": True,
        "decay_rate": DECAY,
        "eps": EPS,
    }

    def train(self, arrays, options, given):
        if arrays is None:
            options = self.options
            params, state, _ = apart.jax().haiku_train(None, options, given)
            # The affine parameters have no part in the statistics.
            for key, value in (("scale", WEIGHT), ("offset", BIAS)):
                params["batch_norm"][key] = value.reshape(params["batch_norm"][key].shape)
        else:
            params, state, _ = apart.jax().haiku_train(arrays, options, given)
        (arrays,) = port.split_haiku(params, state).values()
        return arrays, options

    def infer(self, arrays, options, x):
        return apart.jax().haiku_infer(arrays, options, x)

    def read(self, arrays, options, **more):
        return port.from_haiku(**arrays, **options, **more)

    def write(self, layer, **more):
        return port.to_haiku(layer, ndim=self.ndim, **more)

    def statistics(self, arrays):
        return tuple(arrays[key]["average"].reshape(-1) for key in ("mean_ema", "var_ema"))


class Equinox(Framework):
    axis = 1

    def __init__(self, mode, ndim):
        super().__init__(ndim)
        self.mode = mode
        self.name = f"equinox {mode}"
        self.options = {
            "input_size": 3,
            "channelwise_affine": True,
            "momentum": DECAY,
            "eps": EPS,
            "mode": mode,
        }

    def train(self, arrays, options, given):
        if arrays is None:
            options = self.options
            arrays = apart.jax().equinox_train(None, options, given)[0]
            arrays |= {"weight": WEIGHT, "bias": BIAS}
            return arrays, options
        return apart.jax().equinox_train(arrays, options, given)[0], options

    def infer(self, arrays, options, x):
        return apart.jax().equinox_infer(arrays, options, x)

    def read(self, arrays, options, **more):
        arrays, options = dict(arrays), dict(options)
        del options["input_size"]
        extra = {k: arrays.pop(k) for k in ("counter", "first_time") if k in arrays}
        return port.from_equinox(arrays, **extra, **options, **more)

    def write(self, layer, **more):
        return port.to_equinox(layer, mode=self.mode, **more)

    def statistics(self, arrays):
        return arrays["mean"], arrays["var"]


def _fresh():
    """A new layer with an affine transformation that shows when it is swapped."""
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    return port.State(zero, one, WEIGHT, BIAS, eps=EPS, momentum=0.1)


FRAMEWORKS = (
    Keras(2),
    Keras(4),
    Linen(2),
    Linen(4),
    Nnx(2),
    Nnx(4),
    Haiku(2),
    Haiku(4),
    Equinox("ema", 2),
    Equinox("ema", 4),
)
"""Those that keep what inference uses."""

BATCH_MODE = Equinox("batch", 4)
