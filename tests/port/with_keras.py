"""Run in a process of its own: batch normalization of Keras 3, in plain arrays."""

import keras
import numpy as np


def _layer(arrays, options, shape, dtype="float32"):
    layer = keras.layers.BatchNormalization(dtype=dtype, **options)
    layer.build(shape)
    if arrays is not None:
        layer.set_weights(list(arrays.values()))
    return layer


def _state(layer):
    return {v.name: np.array(v.numpy()) for v in layer.weights}


def version():
    return keras.__version__


def new(options, shape):
    """The arrays and the configuration of a new layer."""
    layer = _layer(None, options, shape)
    return _state(layer), layer.get_config()


def infer(arrays, options, x, dtype="float32"):
    """The output in inference of a layer with these arrays."""
    layer = _layer(arrays, options, x.shape, dtype)
    return keras.ops.convert_to_numpy(layer(x, training=False))


def train(arrays, options, batches):
    """The arrays after training forwards, and the last output."""
    layer = _layer(arrays, options, batches[0].shape)
    for x in batches:
        y = layer(x, training=True)
    return _state(layer), keras.ops.convert_to_numpy(y)


def masked(options, x, mask):
    """One training forward with a mask, or the text of what it raises."""
    layer = _layer(None, options, x.shape)
    try:
        y = layer(x, training=True, mask=keras.ops.convert_to_tensor(mask))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return keras.ops.convert_to_numpy(y)


def network(x):
    """A small network, trained for a few steps: its arrays by path, and its output."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((x.shape[1],)),
            layers.Dense(16, name="dense1"),
            layers.BatchNormalization(name="bn1"),
            layers.ReLU(),
            layers.Dense(8, use_bias=False, name="dense2"),
            layers.BatchNormalization(name="bn2", momentum=0.9, center=False),
            layers.ReLU(),
            layers.Dense(3, name="out"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    model.fit(x, x[:, :3], epochs=2, batch_size=32, verbose=0)
    weights = {v.path: np.array(v.numpy()) for v in model.weights}
    norms = {
        layer.name: {
            key: getattr(layer, key) for key in ("epsilon", "momentum", "scale", "center", "axis")
        }
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization)
    }
    return weights, norms, np.array(model.predict(x, verbose=0))
