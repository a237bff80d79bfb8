"""Splits are paired by seed, and scaling looks at training data only."""

import math

import pytest
import torch

from batchnorm.study.data import Part, Pool, batches, pool, split

DIGITS = pool(None)


def made(n=50, shape=(3,), constant=False):
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)) * 4 + 7
    if constant:
        x[:, 1] = 5.0
    return Part(x, torch.arange(n) % 2)


def test_digits_are_the_real_ones():
    assert DIGITS.train.x.shape == (1797, 64)
    assert DIGITS.classes == 10
    # scikit-learn's first image is a zero; its first rows are these.
    assert DIGITS.train.x[0, :8].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert DIGITS.train.y[:3].tolist() == [0, 1, 2]


def test_the_parts_are_disjoint_and_complete():
    n = 1797
    whole = Pool(Part(torch.arange(n).float()[:, None], torch.arange(n) % 10), None, 10)
    data = split(whole, 3, "raw")
    sizes = [len(part.y) for part in (data.train, data.val, data.test)]
    assert sizes == [n - 2 * 359, 359, 359]
    seen = torch.cat([part.x[:, 0] for part in (data.train, data.val, data.test)])
    assert sorted(seen.tolist()) == list(range(n))


def test_a_given_test_set_stays_whole():
    test = made(20)
    data = split(Pool(made(50), test, 2), 0, "raw")
    assert (len(data.train.y), len(data.val.y)) == (40, 10)
    assert torch.equal(data.test.x, test.x)


def test_one_seed_is_one_split():
    first, again, other = (split(DIGITS, seed, "raw") for seed in (1, 1, 2))
    assert torch.equal(first.train.x, again.train.x)
    assert not torch.equal(first.train.x, other.train.x)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 4)])
def test_standardized_training_data_has_mean_0_and_deviation_1(shape):
    data = split(Pool(made(50, shape), None, 2), 0, "standardize")
    values = data.train.x.double().movedim(1, 0).reshape(3, -1)
    torch.testing.assert_close(values.mean(1), torch.zeros(3).double(), atol=1e-6, rtol=0)
    deviation = values.std(1, correction=0)
    torch.testing.assert_close(deviation, torch.ones(3).double(), atol=1e-6, rtol=0)


def test_min_max_normalized_training_data_spans_0_to_1():
    data = split(Pool(made(), None, 2), 0, "minmax")
    torch.testing.assert_close(data.train.x.amin(0), torch.zeros(3))
    torch.testing.assert_close(data.train.x.amax(0), torch.ones(3))


@pytest.mark.parametrize("inputs", ["standardize", "minmax"])
def test_scaling_is_fitted_on_training_data_only(inputs):
    whole = Pool(made(50), made(20), 2)
    outlier = Part(whole.test.x.clone(), whole.test.y)
    outlier.x[0] = 1e6
    plain = split(whole, 0, inputs)
    with_outlier = split(Pool(whole.train, outlier, 2), 0, inputs)
    assert torch.equal(plain.train.x, with_outlier.train.x)
    assert torch.equal(plain.test.x[1:], with_outlier.test.x[1:])
    raw = split(whole, 0, "raw")
    center = raw.train.x.mean(0) if inputs == "standardize" else raw.train.x.amin(0)
    spread = (
        raw.train.x.std(0, correction=0)
        if inputs == "standardize"
        else raw.train.x.amax(0) - center
    )
    torch.testing.assert_close(plain.test.x, (raw.test.x - center) / spread)


@pytest.mark.parametrize("inputs", ["standardize", "minmax"])
def test_a_constant_feature_becomes_0(inputs):
    data = split(Pool(made(constant=True), None, 2), 0, inputs)
    for part in (data.train, data.val, data.test):
        assert torch.equal(part.x[:, 1], torch.zeros(len(part.y)))
        assert bool(torch.isfinite(part.x).all())


def test_whole_number_inputs_are_left_alone():
    tokens = Part(torch.arange(40).reshape(20, 2), torch.arange(20) % 2)
    data = split(Pool(tokens, None, 2), 0, "standardize")
    assert data.train.x.dtype == torch.int64
    assert set(data.train.x.flatten().tolist()) <= set(range(40))


def test_batches_visit_every_sample_once_an_epoch_and_are_all_full():
    x = torch.arange(40).float()[:, None]
    data = split(Pool(Part(x, torch.arange(40) % 2), None, 2), 0, "raw")
    n = len(data.train.y)
    assert n == 24
    drawn = [b for b, _ in batches(data, 5, 8, seed=1)]
    assert [len(b) for b in drawn] == [5] * 8
    epoch = torch.cat(drawn[:4]).flatten().tolist()
    assert len(set(epoch)) == 20
    assert set(epoch) <= set(data.train.x.flatten().tolist())
    again = [b for b, _ in batches(data, 5, 8, seed=1)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    other = torch.cat([b for b, _ in batches(data, 5, 8, seed=2)])
    assert not torch.equal(torch.cat(drawn), other)


def test_labels_follow_their_inputs():
    data = split(DIGITS, 0, "raw")
    by_image = {
        tuple(x.tolist()): int(y) for x, y in zip(*vars(DIGITS.train).values(), strict=True)
    }
    x, y = next(iter(batches(data, 64, 1, seed=0)))
    assert [by_image[tuple(row.tolist())] for row in x] == y.tolist()
    assert math.isclose(float(DIGITS.train.x.max()), 16)
