"""Arrays of every origin, and those that cannot be the vectors of a layer."""

import array

import ml_dtypes
import numpy as np
import pytest
import torch

from batchnorm import port
from batchnorm.errors import DtypeError, PortError, ShapeError
from batchnorm.port import arrays

VALUES = [1.0, 0.5, -2.25]


class Variable:
    """As those of Keras and TensorFlow: NumPy asks it for its values."""

    def __array__(self, dtype=None, copy=None):
        return np.array(VALUES, np.float32)


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("deleted buffer")


READABLE = {
    "list": (VALUES, torch.float64),
    "array": (np.array(VALUES, np.float32), torch.float32),
    "half": (np.array(VALUES, np.float16), torch.float16),
    "double": (np.array(VALUES), torch.float64),
    "bfloat16": (np.array(VALUES, ml_dtypes.bfloat16), torch.bfloat16),
    "other byte order": (np.array(VALUES, ">f4"), torch.float32),
    "reversed view": (np.array(VALUES[::-1], np.float32)[::-1], torch.float32),
    "strided view": (np.repeat(np.array(VALUES, np.float32), 2)[::2], torch.float32),
    "bfloat16 view": (np.repeat(np.array(VALUES, ml_dtypes.bfloat16), 2)[::2], torch.bfloat16),
    "buffer": (array.array("f", VALUES), torch.float32),
    "variable": (Variable(), torch.float32),
    "tensor": (torch.tensor(VALUES), torch.float32),
    "tensor with a gradient": (torch.tensor(VALUES, requires_grad=True), torch.float32),
    "bfloat16 tensor": (torch.tensor(VALUES, dtype=torch.bfloat16), torch.bfloat16),
    "strided tensor": (torch.tensor(VALUES).repeat_interleave(2)[::2], torch.float32),
}


@pytest.mark.parametrize("name", READABLE)
def test_arrays_keep_values_and_precision(name):
    given, dtype = READABLE[name]
    found = arrays.read(given, "gamma")
    assert found.dtype is dtype
    assert found.double().tolist() == VALUES
    assert not found.requires_grad


@pytest.mark.parametrize("given", [np.array(VALUES, np.float32), torch.tensor(VALUES)])
def test_nothing_is_shared(given):
    found = arrays.read(given, "gamma")
    found[0] = 7
    assert float(given[0]) == 1.0
    written = arrays.write(found)
    written[1] = 8
    assert float(found[1]) == 0.5


def test_inference_mode_leaves_nothing_behind():
    with torch.inference_mode():
        found = arrays.read(torch.tensor(VALUES), "gamma")
    assert not found.is_inference()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_writing_loses_nothing(dtype):
    tensor = torch.tensor([0.1, 3.0, -2.0], dtype=dtype)
    written = arrays.write(tensor)
    assert written.dtype == (np.float32 if dtype is torch.bfloat16 else arrays.write(tensor).dtype)
    assert torch.equal(torch.from_numpy(written).to(dtype), tensor)


WRONG = {
    "integers": (np.arange(3), DtypeError, "floating point values in gamma, found int64"),
    "booleans": (np.array([True]), DtypeError, "found bool"),
    "complex": (np.array([1j]), DtypeError, "found complex128"),
    "text": (np.array(["a"]), DtypeError, "found <U1"),
    "objects": (np.array([None]), DtypeError, "found object"),
    "ragged": ([[1.0], [1.0, 2.0]], PortError, "NumPy can read, found list"),
    "long double": (np.array([1], np.longdouble), DtypeError, "found float128"),
    "quantized": (np.array([1], ml_dtypes.float8_e4m3fn), DtypeError, "found float8_e4m3fn"),
    "integer tensor": (torch.arange(3), DtypeError, "found int64"),
    "meta tensor": (torch.zeros(3, device="meta"), PortError, "has none yet"),
    "broken": (Broken(), PortError, "found Broken: deleted buffer"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read(name):
    given, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        arrays.read(given, "gamma")


def keras(**changes):
    vectors = {
        "gamma": [1.0, 1.0, 2.0],
        "beta": [0.0, 0.5, -0.5],
        "moving_mean": [0.5, 1.0, 0.0],
        "moving_variance": [1.0, 2.0, 3.0],
    }
    return {k: v for k, v in {**vectors, **changes}.items() if v is not None}


def read(given, **options):
    return port.from_keras(given, **{"epsilon": 1e-3, "momentum": 0.99, "name": "bn7"} | options)


BAD = {
    "missing": (keras(moving_mean=None), PortError, "moving_mean lacks\n"),
    "missing gamma": (keras(gamma=None), PortError, "gamma lacks.*scale=False"),
    "missing both": (keras(gamma=None, beta=None), PortError, "scale=False and center=False"),
    "unknown": (keras(kernel=[1.0]), PortError, "has no kernel; leave it out"),
    "two layers": ({**keras(), "b/gamma": [1.0]}, PortError, "gamma twice; split"),
    "matrix": (keras(gamma=[[1.0, 2.0]] * 3), ShapeError, "gamma to be a vector.*3×2.*stacked"),
    "broadcast": (keras(beta=[[[1.0, 2.0, 3.0]]]), ShapeError, "1×1×3; reshape it"),
    "scalar": (keras(beta=np.float32(1)), ShapeError, "a scalar"),
    "empty": (keras(gamma=[]), ShapeError, "gamma to be a vector.*it is empty"),
    "sizes": (keras(gamma=[1.0, 2.0]), ShapeError, "2 in gamma, 3 in beta, 3 in moving_mean"),
    "nan": (keras(beta=[0.0, np.nan, np.inf]), PortError, r"in beta.*channels 1, 2 \(2 of 3\)"),
    "negative": (
        keras(moving_variance=[1.0, -0.5, 1.0]), PortError,
        "negative value in moving_variance, found -0.5 in channel 1 .*moving_mean have none: were "
        "two arrays swapped",
    ),
    "too few": ([[1.0]] * 3, PortError, "expected 4 arrays .gamma, beta.*found 3; .*scale=False"),
    "too many": ([[1.0]] * 5, PortError, "found 5"),
    "no arrays": (np.ones((4, 3)), PortError, "by name, or in its order, found ndarray"),
    "text": ("gamma", PortError, "found str"),
    "integers": (keras(gamma=np.arange(3)), DtypeError, "in gamma, found int64"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_layer(name):
    given, error, message = BAD[name]
    with pytest.raises(error, match=f"^bn7: .*{message}"):
        read(given)


def test_all_zero_and_constant_channels_are_fine():
    state = read(keras(moving_variance=[0.0, 0.0, 0.0]))
    assert state.layer(1).running_var.tolist() == [0.0, 0.0, 0.0]


def test_gamma_beside_scale_false_is_a_contradiction():
    with pytest.raises(PortError, match="no gamma; if the layer has it, say scale=True"):
        read(keras(), scale=False)
    assert read(keras(gamma=None), scale=False).weight is None


def test_names_of_tensorflow():
    state = read({f"net/bn_3/{k}:0": v for k, v in keras().items()})
    assert state.mean.tolist() == [0.5, 1.0, 0.0]


def test_arrays_of_renorm_are_left_out():
    extra = {"moving_stddev": [1.0] * 3, "renorm_mean": [9.0] * 3, "renorm_stddev": [9.0] * 3}
    assert read(keras(**extra)).var.tolist() == [1.0, 2.0, 3.0]
