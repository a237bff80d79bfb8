"""Run in a process of its own: batch normalization of Flax, Haiku and Equinox, in plain arrays."""

import equinox as eqx
import flax
import flax.linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def versions():
    return {"flax": flax.__version__, "haiku": hk.__version__, "equinox": eqx.__version__}


def _plain(tree):
    return jax.tree.map(np.asarray, tree)


# Flax


def linen_infer(variables, options, x):
    layer = flax.linen.BatchNorm(use_running_average=True, **options)
    return np.asarray(layer.apply(variables, x))


def linen_train(variables, options, batches):
    """The collections after training forwards, and the last output; None for a new layer."""
    layer = flax.linen.BatchNorm(use_running_average=False, **options)
    if variables is None:
        variables = layer.init(jax.random.key(0), batches[0])
    for x in batches:
        y, changed = layer.apply(variables, x, mutable=["batch_stats"])
        variables = {**variables, **changed}
    return _plain(dict(variables)), np.asarray(y)


def linen_masked_mean(x, mask):
    """The running mean after one batch, on every shard of the leading axis."""
    layer = flax.linen.BatchNorm(use_running_average=False, momentum=0.0, axis_name="shard")

    def one(x, mask):
        variables = layer.init(jax.random.key(0), x)
        _, changed = layer.apply(variables, x, mask=mask[:, None], mutable=["batch_stats"])
        return changed["batch_stats"]["mean"][0]

    return np.asarray(jax.vmap(one, axis_name="shard")(x, mask))


def _nnx(arrays, options, features):
    layer = nnx.BatchNorm(features, rngs=nnx.Rngs(0), **options)
    if arrays is not None:
        nnx.update(layer, {k: jnp.asarray(v) for k, v in arrays.items()})
    return layer


def nnx_infer(arrays, options, x):
    return np.asarray(_nnx(arrays, options, x.shape[-1])(x, use_running_average=True))


def nnx_train(arrays, options, batches):
    layer = _nnx(arrays, options, batches[0].shape[-1])
    for x in batches:
        y = layer(x, use_running_average=False)
    return _plain(nnx.to_pure_dict(nnx.state(layer))), np.asarray(y)


def flax_networks(x):
    """The variables of a network of linen and of one of nnx, with norms among other layers."""

    class Inner(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            x = flax.linen.Dense(5)(x)
            return flax.linen.BatchNorm(use_running_average=True)(x)

    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            x = flax.linen.BatchNorm(use_running_average=True, use_scale=False, name="first")(x)
            return flax.linen.Dense(2)(Inner(name="inner")(x))

    class Both(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(x.shape[1], 5, rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.norm(self.dense(x))

    linen = _plain(dict(Net().init(jax.random.key(0), x)))
    return linen, _plain(nnx.to_pure_dict(nnx.state(Both())))


# Haiku


def _haiku(options, is_training):
    def forward(x):
        return hk.BatchNorm(**options)(x, is_training)

    return hk.transform_with_state(forward)


def haiku_infer(arrays, options, x, name="batch_norm"):
    params, state = _haiku_trees(arrays, name)
    return np.asarray(_haiku(options, False).apply(params, state, None, x)[0])


def haiku_train(arrays, options, batches):
    """Parameters and state after training forwards, and the last output; None for a new layer."""
    net = _haiku(options, True)
    params, state = net.init(jax.random.key(0), batches[0])
    if arrays is not None:
        params, state = _haiku_trees(arrays, "batch_norm")
    for x in batches:
        y, state = net.apply(params, state, None, x)
    return _plain(dict(params)), _plain(dict(state)), np.asarray(y)


def _haiku_trees(arrays, name):
    params = {name: arrays["params"]} if arrays["params"] else {}
    return params, {f"{name}/~/{k}": arrays[k] for k in ("mean_ema", "var_ema")}


# Equinox


def _equinox(arrays, options):
    layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(axis_name="batch", **options)
    if arrays is None:
        return layer, state
    if options["channelwise_affine"]:
        places = (arrays["weight"], arrays["bias"])
        layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, tuple(map(jnp.asarray, places)))
    pair = (jnp.asarray(arrays["mean"]), jnp.asarray(arrays["var"]))
    if options["mode"] == "batch":
        state = state.set(layer.batch_state_index, pair)
        return layer, state.set(layer.batch_counter, jnp.asarray(int(arrays["counter"])))
    state = state.set(layer.ema_state_index, pair)
    return layer, state.set(layer.ema_first_time_index, jnp.asarray(arrays["first_time"]))


def _equinox_run(layer, state, x, inference):
    def one(x, state):
        return layer(x, state, inference=inference)

    return jax.vmap(one, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)


def _equinox_state(layer, state):
    in_batch_mode = layer.mode == "batch"
    index = layer.batch_state_index if in_batch_mode else layer.ema_state_index
    mean, var = state.get(index)
    found = {"mean": mean, "var": var, "weight": layer.weight, "bias": layer.bias}
    if in_batch_mode:
        found["counter"] = state.get(layer.batch_counter)
    else:
        found["first_time"] = state.get(layer.ema_first_time_index)
    return {k: np.asarray(v) for k, v in found.items() if v is not None}


def equinox_infer(arrays, options, x):
    layer, state = _equinox(arrays, options)
    return np.asarray(_equinox_run(layer, state, x, True)[0])


def equinox_train(arrays, options, batches):
    layer, state = _equinox(arrays, options)
    for x in batches:
        y, state = _equinox_run(layer, state, x, False)
    return _equinox_state(layer, state), np.asarray(y)


def bfloat16(values):
    """An array of JAX's in bfloat16, as it leaves JAX."""
    return np.asarray(jnp.asarray(values, jnp.bfloat16))
