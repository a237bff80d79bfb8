import pytest
import torch

from batchnorm import reference
from batchnorm.weights import of_positions, weigh

X = torch.zeros(3, 5, 2)
MASKS = {
    None: None,
    "samples": torch.tensor([True, False, True]),
    "positions": torch.tensor([[True, False], [True, True], [False, True]]),
}
WEIGHTS = {
    None: None,
    "samples": torch.tensor([0.5, 0.0, 2.0]),
    "positions": torch.tensor([[1.0, 2.0], [0.0, 4.0], [5.0, 6.0]]),
    "half": torch.tensor([0.5, 0.1, 2.0]).bfloat16(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("mask", MASKS)
def test_weights_of_positions_are_those_specified(mask, weights, dtype):
    w = of_positions(X, MASKS[mask], WEIGHTS[weights], dtype)
    if mask is weights is None:
        assert w is None
        return
    assert w.dtype is dtype
    expected = reference.weights(X, MASKS[mask], WEIGHTS[weights]).to(dtype)
    assert torch.equal(w, expected.unsqueeze(1))


def test_weights_of_positions_are_not_differentiated():
    weights = torch.ones(3, requires_grad=True)
    assert not of_positions(X, MASKS["samples"], weights, torch.float32).requires_grad


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("shape", [(3, 1, 2), (3, 1), (3, 2, 2, 1)], ids=str)
def test_weigh_sums_up_each_channel(shape, scale):
    generator = torch.Generator().manual_seed(0)
    w = torch.rand(shape, generator=generator, dtype=torch.float64)
    w[1] = 0
    count, effective, share = weigh((w * scale).float())
    dims = (0, *range(2, w.dim()))
    total = w.sum(dims)
    torch.testing.assert_close(count.double() / scale, total, rtol=1e-6, atol=0)
    expected = total.square() / w.square().sum(dims)
    torch.testing.assert_close(effective.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(share.double(), w / w.sum(dims, True), rtol=1e-6, atol=0)


def test_weigh_of_no_weight_is_zero_and_of_one_value_is_one():
    w = torch.tensor([[0.0, 0.3, 7.0], [0.0, 0.0, 7.0]])
    count, effective, share = weigh(w)
    assert torch.equal(count, torch.tensor([0.0, 0.3, 14.0]))
    assert torch.equal(effective, torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(share, torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.5]]))


@pytest.mark.parametrize("tiny", [1e-30, 1e-44])
def test_weigh_takes_ratios_of_the_smallest_numbers_too(tiny):
    count, effective, share = weigh(torch.tensor([[tiny], [tiny]]))
    torch.testing.assert_close(count, torch.tensor([2 * tiny]))
    torch.testing.assert_close(effective, torch.tensor([2.0]))
    torch.testing.assert_close(share, torch.tensor([[0.5], [0.5]]))
