"""Run in a process of its own: batch normalization of Keras 2, in plain arrays."""

import numpy as np
import tensorflow as tf
import tf_keras


def version():
    return tf_keras.__version__, tf.__version__


def train(options, batches):
    """The arrays after training forwards, and whether a fused kernel ran."""
    layer = tf_keras.layers.BatchNormalization(**options)
    for x in batches:
        layer(x, training=True)
    return {v.name: v.numpy() for v in layer.weights}, bool(layer.fused)


def infer(arrays, options, x):
    layer = tf_keras.layers.BatchNormalization(**options)
    layer.build(x.shape)
    layer.set_weights(list(arrays.values()))
    return np.asarray(layer(x, training=False))
