"""`fold` on whole networks: those of `transformers`, and the three of the examples."""

import pytest
import torch

import batchnorm as bn

from . import architectures
from .examples import load
from .nets import distance, norms, randomized, reference, run

pytestmark = pytest.mark.slow


OURS = load("architectures")
CASES = {
    "unet": (OURS.UNet, (2, 3, 32, 32), 10, 0),
    "densenet": (OURS.DenseNet, (2, 3, 32, 32), 15, 8),
    "generator": (OURS.Generator, (2, 16), 3, 0),
    "resnet": (architectures.resnet, (2, 3, 64, 64), 15, 0),
    "regnet": (architectures.regnet, (2, 3, 64, 64), 12, 0),
    "mobilenet_v2": (architectures.mobilenet_v2, (2, 3, 64, 64), 52, 0),
    "efficientnet": (architectures.efficientnet, (2, 3, 64, 64), 31, 0),
    "levit": (architectures.levit, (2, 3, 64, 64), 28, 0),
}
"""Builder, shape of its input, number of normalizations, number of those that are left."""


@pytest.mark.parametrize("case", CASES)
def test_folds_whole_networks(case):
    make, shape, num_norms, num_left = CASES[case]
    torch.manual_seed(0)
    model, x = randomized(make()), torch.randn(shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded, changes = bn.fold(model, x)
    assert len(norms(model)) == num_norms == len(changes)
    assert [c.name for c in changes if c.action == "leave alone"] == sorted(
        norms(folded), key=[c.name for c in changes].index
    )
    assert len(norms(folded)) == num_left
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    wanted = reference(model, x)
    # As exact as the network itself, up to the rounding of the new weights.
    assert distance(run(folded, x), wanted) < 4 * distance(run(model, x), wanted) + 2**-22


@pytest.mark.parametrize("case", CASES)
def test_what_a_fold_has_saved_loads_into_a_fresh_network_that_was_folded(case):
    make, shape, *_ = CASES[case]
    x = torch.randn(shape)
    trained, fresh = bn.fold(randomized(make()), x).model, bn.fold(make(), x).model
    fresh.load_state_dict(trained.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(run(fresh, x), run(trained, x), strict=True))
