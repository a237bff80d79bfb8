"""Training, validation and test data of one seed, from digits or from the user's `data()`.

Standardizing an input means subtracting its mean and dividing by its standard deviation; min-max
normalizing means mapping its range to [0, 1]. Both are fitted on the training part only.
"""

import dataclasses
from collections.abc import Sized
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UsageError
from ..loading import load
from ..moments import Moments

VALIDATION_SHARE = 0.2
TEST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Part:
    """Inputs of shape (N, *) and the class of each, of shape (N,)."""

    x: Tensor
    y: Tensor


@dataclasses.dataclass(frozen=True)
class Data:
    """The three parts of one seed; the training part also serves as the probe set."""

    train: Part
    val: Part
    test: Part
    classes: int


@dataclasses.dataclass(frozen=True)
class Pool:
    """All there is: a test part of None means that each seed draws its own."""

    train: Part
    test: Part | None
    classes: int


@lru_cache(maxsize=4)
def pool(spec: str | None) -> Pool:
    """Load the data that `spec` names, checked; None is scikit-learn's digits.

    Raises:
        UsageError: The data is not what training needs: see `_check_part`.
    """
    if spec is None:
        return _digits()
    made = load(spec, "--data")()
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise UsageError(
            f"--data {spec!r}: expected data() to return (training set, test set), "
            f"found {_describe(made)}"
        )
    train = _part(made[0], f"--data {spec!r}: the training set")
    test = _part(made[1], f"--data {spec!r}: the test set")
    if train.x.shape[1:] != test.x.shape[1:]:
        raise UsageError(
            f"--data {spec!r}: training inputs have shape {tuple(train.x.shape[1:])} per sample, "
            f"test inputs {tuple(test.x.shape[1:])}; expected the same"
        )
    return Pool(train, test, int(max(train.y.max(), test.y.max())) + 1)


def split(whole: Pool, seed: int, inputs: str) -> Data:
    """Draw the parts of one seed and scale the inputs by statistics of its training part."""
    order = torch.randperm(len(whole.train.y), generator=torch.Generator().manual_seed(seed))
    held_out = [VALIDATION_SHARE] if whole.test else [VALIDATION_SHARE, TEST_SHARE]
    sizes = [max(1, round(share * len(order))) for share in held_out]
    train_index, *held = torch.split(order, [len(order) - sum(sizes), *sizes])
    train, val, *rest = (
        Part(whole.train.x[index], whole.train.y[index]) for index in (train_index, *held)
    )
    test = whole.test or rest[0]
    shift, scale = _scaling(train.x, inputs)
    train, val, test = (Part((p.x - shift) * scale, p.y) for p in (train, val, test))
    return Data(train, val, test, whole.classes)


def batches(data: Data, batch_size: int, steps: int, seed: int) -> Any:
    """Yield `steps` training batches; the order depends on the seed alone, not on the arm.

    An incomplete last batch is left out, as its statistics would be noisier than the others'.
    """
    generator = torch.Generator().manual_seed(seed + 1_000_003)  # not the stream of the split
    per_epoch = len(data.train.y) // batch_size
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(data.train.y), generator=generator)
        start = step % per_epoch * batch_size
        index = order[start : start + batch_size]
        yield data.train.x[index], data.train.y[index]


def _digits() -> Pool:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    part = Part(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64))
    return Pool(part, None, 10)


def _scaling(x: Tensor, inputs: str) -> tuple[Tensor | float, Tensor | float]:
    """What to subtract and what to multiply by: per feature, or per channel for images."""
    if inputs == "raw" or not x.is_floating_point():
        return 0, 1
    shape = (1, -1) + (1,) * (x.dim() - 2)
    if inputs == "standardize":
        moments = Moments.of(x)
        shift, spread = moments.mean, moments.var().sqrt()
    else:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shift = x.amin(axes)
        spread = x.amax(axes) - shift
    # A constant feature carries nothing: it becomes 0 instead of 0/0.
    scale = torch.where(spread > 0, 1 / spread, 0)
    return shift.view(shape), scale.view(shape)


def _part(given: Any, where: str) -> Part:
    try:
        x, y = _tensors(given, where)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{where}: reading it raised {type(error).__name__}: {error}") from error
    _check_part(x, y, where)
    # NumPy's float64 would not go through a float32 network.
    return Part(x.to(torch.get_default_dtype()) if x.is_floating_point() else x, y.long())


def _tensors(given: Any, where: str) -> tuple[Tensor, Tensor]:
    """Hold a data set in memory as two tensors; a random augmentation is drawn once."""
    if isinstance(given, tuple | list) and len(given) == 2:
        return torch.as_tensor(given[0]), torch.as_tensor(given[1])
    if isinstance(given, Dataset) and not isinstance(given, DataLoader):
        if isinstance(given, Sized) and len(given) == 0:
            return torch.empty(0, 1), torch.empty(0, dtype=torch.int64)
        given = DataLoader(given, batch_size=256)
    if not isinstance(given, DataLoader):
        raise UsageError(
            f"{where}: expected (inputs, labels) tensors, a Dataset or a DataLoader, "
            f"found {_describe(given)}"
        )
    rows = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in given]
    if not rows:
        return torch.empty(0, 1), torch.empty(0, dtype=torch.int64)
    return torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows])


def _check_part(x: Tensor, y: Tensor, where: str) -> None:
    if len(x) != len(y):
        raise UsageError(f"{where}: {len(x)} inputs but {len(y)} labels; expected as many")
    if len(y) == 0:
        raise UsageError(f"{where} has size 0; expected at least 1 sample")
    if x.dim() < 2:
        raise UsageError(f"{where}: inputs have shape {tuple(x.shape)}; expected (N, features, ..)")
    if y.dim() != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UsageError(
            f"{where}: labels have shape {tuple(y.shape)} and type {y.dtype}; "
            "expected one whole class number per sample"
        )
    if int(y.min()) < 0:
        at = int((y < 0).nonzero()[0])
        raise UsageError(
            f"{where}: label {int(y[at])} at index {at} is out of range; expected >= 0"
        )
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        at = int((~torch.isfinite(x)).reshape(len(x), -1).any(1).nonzero()[0])
        kind = "NaN" if bool(torch.isnan(x[at]).any()) else "an infinite value"
        raise UsageError(f"{where}: sample {at} contains {kind}; remove or replace it")


def _describe(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__}"
