"""One training run: what it repeats, when it has diverged, and what it leaves alone."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from batchnorm.study.data import Data, Part, batches
from batchnorm.study.design import BATCH_NORM, GRID, NONE, PROBE, Problem, TrialConfig
from batchnorm.study.models import build
from batchnorm.study.training import (
    DIVERGED,
    OK,
    evaluate,
    evaluate_all,
    evaluation_steps,
    has_learned,
    train,
)
from batchnorm.study.trial import run_trial

from .cases import assert_untouched, blobs, dense, in_place, normalized, snapshot, with_dropout

PROBLEM = Problem("raw", batch_size=8, steps=20, stability_steps=8, depth=2, width=6)


class Recorder:
    """Keeps the batches and the parameters that a run showed."""

    def __init__(self):
        self.steps, self.batches, self.updated, self.weights = [], [], [], []

    def before(self, step, model):
        self.steps.append(step)
        self.weights.append([p.detach().clone() for p in model.parameters()])

    def around(self, step, model, x, y):
        self.batches.append((x.clone(), y.clone()))
        return lambda: self.updated.append([p.detach().clone() for p in model.parameters()])


def run_with(make, lr=0.1, seed=0, steps=20, problem=PROBLEM):
    torch.manual_seed(9)
    model, seen = make(), Recorder()
    ran = train(model, blobs(), problem, lr, steps, seed, seen)
    return ran, seen, model


def test_same_seed_gives_every_arm_the_same_batches():
    _, without, _ = run_with(dense)
    _, with_bn, _ = run_with(normalized(dense))
    _, dropped, _ = run_with(with_dropout)
    assert len(without.batches) == 20
    assert_close(with_bn.batches, without.batches, rtol=0, atol=0)
    assert_close(dropped.batches, without.batches, rtol=0, atol=0)


def test_other_seed_gives_another_order():
    _, a, _ = run_with(dense, seed=0)
    _, b, _ = run_with(dense, seed=1)
    assert not torch.equal(a.batches[0][0], b.batches[0][0])


def test_epoch_shows_every_sample_at_most_once_and_full_batches_only():
    data = Data(*(Part(torch.arange(10.0)[:, None], torch.arange(10)),) * 3, 10)
    drawn = [y for _, y in batches(data, 4, 5, seed=0)]
    assert [len(y) for y in drawn] == [4] * 5
    for epoch in (drawn[0:2], drawn[2:4]):
        assert len(set(torch.cat(epoch).tolist())) == 8
    assert drawn[0].tolist() != drawn[2].tolist()


def test_arms_share_their_initial_weights():
    data = blobs()
    config = TrialConfig(PROBLEM, GRID, "relu", NONE, 3, 0.1)
    plain = build(config, data)
    with_bn = build(dataclasses.replace(config, arm=BATCH_NORM), data)
    shared = dict(with_bn.named_parameters())
    weights = {n: p for n, p in plain.named_parameters() if n.endswith("weight")}
    assert len(weights) == 3
    for name, weight in weights.items():
        assert_close(shared[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("make", [dense, normalized(dense), with_dropout])
def test_steps_are_those_of_plain_sgd_with_momentum(make):
    _, seen, model = run_with(make, lr=0.05, steps=7, seed=4)
    torch.manual_seed(9)
    twin = make().train()
    torch.manual_seed(4)
    speed = [torch.zeros_like(p) for p in twin.parameters()]
    for x, y in seen.batches:
        grads = torch.autograd.grad(functional.cross_entropy(twin(x), y), list(twin.parameters()))
        with torch.no_grad():
            for p, v, g in zip(twin.parameters(), speed, grads, strict=True):
                v.mul_(0.9).add_(g)
                p.sub_(0.05 * v)
    assert_close(list(model.parameters()), list(twin.parameters()), rtol=1e-4, atol=1e-6)


def test_observer_sees_every_step_and_the_end():
    ran, seen, model = run_with(dense, steps=3)
    assert ran.steps == 3
    assert seen.steps == [0, 1, 2, 3]
    assert_close(seen.updated, seen.weights[1:], rtol=0, atol=0)
    assert_close(seen.weights[-1], [p.detach() for p in model.parameters()], rtol=0, atol=0)


def test_training_that_lowers_the_loss_is_ok():
    ran, _, model = run_with(dense)
    assert ran.status == OK
    assert evaluate(model, blobs().train)[1] > 0.9


class Schedule(nn.Module):
    """A network whose loss on label 0 follows a list, whatever happens to its parameter."""

    def __init__(self, losses):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.losses = iter(losses)

    def forward(self, x):
        # -ln softmax((0, s))[0] = ln(1 + e^s) = loss, and -ln softmax((-inf, 0))[0] = inf
        loss = next(self.losses)
        scores = (0.0, math.log(math.expm1(loss)) if loss < math.inf else loss)
        if loss == math.inf:
            scores = (-math.inf, 0.0)
        return torch.tensor([scores] * len(x)) + 0 * self.weight


def status_of(losses):
    data = Data(*(Part(torch.zeros(8, 1), torch.zeros(8, dtype=torch.int64)),) * 3, 2)
    seen = Recorder()
    return train(Schedule(losses), data, PROBLEM, 0.0, len(losses), 0, seen), seen


@pytest.mark.parametrize(
    ("losses", "status", "improved"),
    [
        ([1.0] * 18 + [0.9] * 2, OK, True),
        ([1.0] * 18 + [1.09] * 2, OK, False),  # not learned, not diverged
        ([1.0] * 18 + [1.11] * 2, DIVERGED, False),
        ([1.0] * 20, OK, False),
        ([1.0] * 18 + [0.1, 1.8], OK, True),  # the mean of the last tenth, two steps, is 0.95
        ([1.0] * 18 + [0.3, 1.8], OK, False),  # 1.05
        ([1.0] + [0.1] * 17 + [1.8, 1.8], DIVERGED, False),
        ([1.0] + [9.0] * 17 + [0.5, 0.5], OK, True),
        ([1.0, 0.5], OK, True),
    ],
)
def test_run_that_ends_a_tenth_higher_than_it_began_has_diverged(losses, status, improved):
    ran, _ = status_of(losses)
    assert (ran.status, ran.improved, ran.steps) == (status, improved, len(losses))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_that_is_not_finite_ends_the_run_at_once(bad):
    ran, seen = status_of([1.0, 0.5, bad, 0.1, 0.1])
    assert (ran.status, ran.steps) == (DIVERGED, 3)
    assert seen.steps == [0, 1, 2]
    assert len(seen.updated) == 2


def test_absurd_learning_rate_diverges_for_real():
    ran, _, _ = run_with(in_place, lr=1e20)
    assert ran.status == DIVERGED


@pytest.mark.parametrize("make", [dense, normalized(dense), with_dropout])
def test_evaluate_is_by_hand_and_keeps_mixed_training_flags(make):
    torch.manual_seed(0)
    model = make().train()
    model[1].eval()
    part, before = blobs().test, snapshot(model)

    loss, accuracy = evaluate(model, part)

    assert_untouched(before, model)
    scores = model.eval()(part.x).detach().double()
    by_hand = [float(row.exp().sum().log() - row[y]) for row, y in zip(scores, part.y, strict=True)]
    assert loss == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
    correct = [int(row.argmax()) == int(y) for row, y in zip(scores, part.y, strict=True)]
    assert accuracy == pytest.approx(sum(correct) / len(correct))


def test_evaluate_keeps_training_flags_though_the_network_raises():
    model = dense().train()
    model[0].eval()
    part = Part(torch.randn(3, 99), torch.zeros(3, dtype=torch.int64))
    before = snapshot(model)
    with pytest.raises(RuntimeError):
        evaluate(model, part)
    assert_untouched(before, model)


def test_evaluate_of_a_network_that_is_not_finite_is_infinitely_bad():
    model = nn.Linear(4, 3)
    nn.init.constant_(model.bias, math.nan)
    part = Part(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))  # argmax of NaN is 0
    assert evaluate(model, part) == (math.inf, 0.0)


def test_evaluate_all_looks_at_the_right_parts():
    data = blobs()
    x, y = data.train.x, data.train.y
    data = Data(Part(x, y), Part(x, (y + 1) % 3), Part(x[:6], y[:6]), 3)
    _, _, model = run_with(dense)
    e = evaluate_all(model, data, 17)
    assert e.step == 17
    assert (e.train_loss, e.train_accuracy) == evaluate(model, data.train)
    assert e.val_accuracy == evaluate(model, data.val)[1] < 0.1
    assert (e.test_loss, e.test_accuracy) == evaluate(model, data.test)


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 240, 1000])
def test_evaluation_steps_start_at_one_end_at_the_last_and_never_jump_far(steps):
    found = evaluation_steps(steps)
    assert (found[0], found[-1]) == (1, steps)
    assert list(found) == sorted(set(found))
    assert all(b <= max(a + 1, 1.2 * (a + 0.5) + 0.5) for a, b in pairwise(found))


def test_evaluation_steps_of_a_default_run():
    assert evaluation_steps(12) == (1, 2, 3, 4, 5, 6, 7, 9, 11, 12)


@pytest.mark.parametrize(
    ("accuracy", "classes", "learned"),
    [(0.2, 10, False), (0.21, 10, True), (0.59, 2, False), (0.61, 2, True), (None, 2, False)],
)
def test_learned_is_a_tenth_above_chance(accuracy, classes, learned):
    assert has_learned(accuracy, classes) is learned


USER_NET = """
import torch
from torch import nn

def make(norm):
    return nn.Sequential(
        nn.Linear(64, 16), norm(16), nn.ReLU(inplace=True), nn.Dropout(0.3),
        nn.Linear(16, 16), norm(16), nn.Tanh(), nn.Linear(16, 10),
    )
"""


@pytest.mark.parametrize("arm", [NONE, BATCH_NORM])
def test_measured_run_ends_bit_for_bit_where_the_bare_one_does(arm, tmp_path):
    """Drift, profiles, shift, dead units and more evaluations must not touch the training."""
    net = tmp_path / "net.py"
    net.write_text(USER_NET)
    problem = Problem("standardize", 32, 24, 8, model=f"{net}:make")
    bare, measured = (
        run_trial(TrialConfig(problem, stage, "model", arm, 0, 0.1)) for stage in (GRID, PROBE)
    )
    assert measured.error == bare.error == ""
    assert len(measured.shifts) == 5 and len(measured.drifts) == 10
    assert measured.final == bare.final
    first, second = ({e.step: e.val_accuracy for e in run.curve} for run in (bare, measured))
    common = set(first) & set(second)
    assert len(common) >= 6
    assert all(first[step] == second[step] for step in common)
