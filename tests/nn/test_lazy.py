import pytest
import torch

from batchnorm import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d, Renorm
from batchnorm.errors import DtypeError, OptionError

from .cases import CLASSES, assert_same_state, random, state

LAZY = dict(zip((LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d), CLASSES, strict=True))
each_lazy = pytest.mark.parametrize("lazy", LAZY, ids=lambda cls: cls.__name__)
OPTIONS = {
    "eps": 1e-3,
    "momentum": 0.5,
    "activation": "silu",
    "virtual_batch_size": 3,
    "renorm": Renorm(2.0, 1.0, 0, 0),
    "nonfinite": "raise",
    "degenerate": "running",
}


@each_lazy
@pytest.mark.parametrize("name", [None, *OPTIONS])
def test_lazy_layer_computes_what_its_class_does(lazy, name):
    options = {} if name is None else {name: OPTIONS[name]}
    cls = LAZY[lazy]
    made, expected = lazy(**options), cls(4, **options)
    for seed in range(3):
        x = random(CLASSES[cls], seed=seed)
        assert torch.equal(made(x), expected(x))
    assert type(made) is cls
    assert repr(made) == repr(expected)
    assert_same_state(made, state(expected))


@each_lazy
def test_first_call_takes_every_argument(lazy):
    cls = LAZY[lazy]
    x = random(CLASSES[cls])
    arguments = {"mask": torch.arange(12) > 1, "sample_weight": torch.arange(12) + 1.0}
    assert torch.equal(lazy()(x, x, **arguments), cls(4)(x, x, **arguments))


@each_lazy
def test_wrong_options_are_refused_before_the_first_input(lazy):
    for wrong in ({"momentum": 2.0}, {"activation": "swish"}, {"virtual_batch_size": 0}):
        with pytest.raises(OptionError):
            lazy(**wrong)


@each_lazy
def test_wrong_first_input_leaves_the_layer_lazy(lazy):
    cls = LAZY[lazy]
    made, x = lazy(), random(CLASSES[cls])
    with pytest.raises(DtypeError, match=r"floating point input, found torch\.int64"):
        made(x.long())
    assert type(made) is lazy
    assert torch.equal(made(x), cls(4)(x))
