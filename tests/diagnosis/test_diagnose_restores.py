"""Whatever happens while a model is diagnosed: it is what it was, bit for bit."""

import os
import random
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.diagnosis import collect
from batchnorm.surgery.recalibration import restore
from meddling import Counter, Stubborn

pytestmark = pytest.mark.slow


def network():
    torch.manual_seed(0)
    made = nn.Sequential(
        Counter(),
        bn.BatchNorm1d(3),
        Stubborn(nn.Linear(3, 4), nn.Dropout(), bn.BatchNorm1d(4, activation="relu")),
        nn.BatchNorm1d(4, momentum=None),
        bn.BatchNorm1d(4),
        nn.ReLU(inplace=True),
        nn.Linear(4, 2),
    )
    made(torch.randn(8, 3)).sum().backward()
    made[3].momentum = 0.3
    bn.freeze(made[4])
    made[6].eval()
    made[1].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    made[1].register_forward_hook(lambda module, args, output: output + 1)
    made[6].weight.register_hook(lambda grad: grad * 2)
    made[6].bias.register_post_accumulate_grad_hook(_step)
    return made


def _step(parameter):
    """An optimizer inside the backward pass would move the parameter."""
    with torch.no_grad():
        parameter.add_(1.0)


def batches(number=4):
    generator = torch.Generator().manual_seed(1)
    x = [torch.randn(5, 3, generator=generator) for _ in range(number)]
    return [(one, torch.arange(5) % 2) for one in x]


def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])


def everything(model):
    """All there is to a model and to the random generators, to be compared."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    attributes = ("momentum", "eps", "track_running_stats", "paused", "pools", "frozen_affine")
    return {
        "modes": [module.training for module in model.modules()],
        "tensors": {
            name: (id(t), t.detach().clone(), t.requires_grad, t._version)
            for name, t in (*model.named_parameters(), *model.named_buffers())
        },
        "grads": {
            name: None if p.grad is None else (id(p.grad), p.grad.clone(), p.grad._version)
            for name, p in model.named_parameters()
        },
        "hooks": [
            [dict(getattr(module, name)) for name in vars(module) if "hooks" in name]
            for module in model.modules()
        ],
        "of tensors": [
            [dict(p._backward_hooks or {}), dict(p._post_accumulate_grad_hooks or {})]
            for p in model.parameters()
        ],
        "layers": [[getattr(m, a, None) for a in attributes] for m in layers],
        "buffers": [list(module._buffers) for module in model.modules()],
        "shown": repr(model),
        "switched": model[2].switched,
        "random": (
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.get_rng_state().tolist(),
        ),
    }


def assert_same(found, expected):
    for key in ("tensors", "grads"):
        assert found[key].keys() == expected[key].keys()
        for name, wanted in expected[key].items():
            if wanted is None:
                assert found[key][name] is None
                continue
            identity, value, *rest = wanted
            assert found[key][name][0] == identity, name
            assert torch.equal(found[key][name][1], value), name
            assert list(found[key][name][2:]) == rest, name
    for key in expected.keys() - {"tensors", "grads"}:
        assert found[key] == expected[key], key


def draw():
    """What augmentation does."""
    return random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002


class Raising:
    """Stands for forward, loss or progress; raises at a call."""

    def __init__(self, function, error, at):
        self.function, self.error, self.at, self.calls = function, error, at, 0

    def __call__(self, *args):
        draw()
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.function(*args)


def run(model, batch):
    return model(batch[0])


ERRORS = [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
# Four batches in every run, one more for the updates, four for the leakage.
PLACES = [1, 4, 5, 9, 13, 17, 18, 21, 22, 25, 26, 29]


@pytest.mark.parametrize("training", [True, False, None], ids=["training", "evaluation", "as made"])
@pytest.mark.parametrize("has_loss", [True, False], ids=["loss", "no loss"])
def test_nothing_changes(training, has_loss):
    net = network()
    if training is not None:
        net.train(training)
    before = everything(net)
    found = bn.diagnose(net, batches(), loss if has_loss else None, progress=False)
    assert len(found.result.layers) == 4
    assert_same(everything(net), before)


@each_error
@pytest.mark.parametrize("at", PLACES)
def test_forward_raises(error, at):
    net = network()
    before, forward = everything(net), Raising(run, error, at)
    with pytest.raises(type(error)):
        bn.diagnose(net, batches(), loss, forward=forward)
    assert forward.calls == at
    assert_same(everything(net), before)


def test_those_are_all_the_places():
    forward = Raising(run, None, 0)
    bn.diagnose(network(), batches(), loss, forward=forward)
    assert forward.calls == PLACES[-1]


@each_error
@pytest.mark.parametrize("at", [1, 6, 17, 21])
def test_the_loss_raises(error, at):
    net = network()
    before, raising = everything(net), Raising(loss, error, at)
    with pytest.raises(type(error)):
        bn.diagnose(net, batches(), raising)
    assert_same(everything(net), before)


@each_error
@pytest.mark.parametrize("at", [1, 3])
def test_the_loader_raises(error, at):
    net = network()

    def loader():
        for number, batch in enumerate(batches(), 1):
            draw()
            if number == at:
                raise error
            yield batch

    before = everything(net)
    # A generator that raises GeneratorExit ends, for whoever iterates, with that exception.
    with pytest.raises(type(error)):
        bn.diagnose(net, loader(), loss)
    assert_same(everything(net), before)


@each_error
@pytest.mark.parametrize("at", [1, 7, 20])
def test_progress_raises(error, at):
    net = network()
    before, raising = everything(net), Raising(lambda done, total: None, error, at)
    with pytest.raises(type(error)):
        bn.diagnose(net, batches(), loss, progress=raising)
    assert_same(everything(net), before)


@pytest.mark.parametrize("what", ["watch", "measured_anew", "leakage", "updates_of_step"])
def test_a_part_of_it_is_interrupted(what, monkeypatch):
    net = network()
    before = everything(net)

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, what, stop)
    with pytest.raises(KeyboardInterrupt):
        bn.diagnose(net, batches(), loss)
    assert_same(everything(net), before)


def test_a_backward_pass_of_the_users_own_leaves_the_gradients():
    net = network()
    before = everything(net)

    def forward(model, batch):
        output = model(batch[0])
        if output.requires_grad:
            output.sum().backward(inputs=[model[6].weight], retain_graph=True)
        return output

    bn.diagnose(net, batches(), loss, forward=forward)
    assert_same(everything(net), before)


def test_a_graph_of_before_can_still_be_gone_back():
    net = nn.Sequential(nn.BatchNorm1d(3), bn.BatchNorm1d(3)).eval()
    x = torch.randn(8, 3, requires_grad=True)
    y = net(x).square().sum()
    bn.diagnose(net, [torch.randn(8, 3) for _ in range(3)])
    y.backward()
    assert x.grad is not None


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    """A layer of torch counts the forward pass of a checkpoint's backward pass, too; ours not."""

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.part = nn.Sequential(nn.BatchNorm1d(3), bn.BatchNorm1d(3))

        def forward(self, x):
            return checkpoint(self.part, self.first(x), use_reentrant=reentrant)

    net = Checkpointed()
    net.first.bias.register_post_accumulate_grad_hook(_step)
    before = {name: t.detach().clone() for name, t in net.state_dict().items()}
    found = bn.diagnose(net, batches(), loss)
    layers = found.evidence.layers
    assert (layers["part.0"].updates, layers["part.1"].updates) == (2, 1)
    assert layers["part.1"].error_rms > 0
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert list(net.first.bias._post_accumulate_grad_hooks.values()) == [_step]


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("at", [1, 2, 12, 16])
def test_ctrl_c_while_buffers_are_put_back(at, monkeypatch):
    net, put_back = network(), restore._put_back
    before, calls = everything(net), []

    def disturbed(*args):
        calls.append(True)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        put_back(*args)

    monkeypatch.setattr(restore, "_put_back", disturbed)
    with pytest.raises(KeyboardInterrupt):
        bn.diagnose(net, batches(), loss)
    assert_same(everything(net), before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_middle():
    net = network()
    before = everything(net)

    def forward(model, batch):
        forward.calls += 1
        if forward.calls == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return model(batch[0])

    forward.calls = 0
    with pytest.raises(KeyboardInterrupt):
        bn.diagnose(net, batches(), loss, forward=forward)
    assert_same(everything(net), before)


def test_inside_no_grad_and_inference_mode():
    for mode in (torch.no_grad, torch.inference_mode):
        net = network()
        before = everything(net)
        with mode():
            found = bn.diagnose(net, batches(), loss)
        assert found.evidence.layers["1"].error_rms > 0
        assert_same(everything(net), before)


def test_batches_are_left_alone():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm1d(3))
    given = [torch.randn(5, 3) for _ in range(3)]
    copies = [x.clone() for x in given]
    bn.diagnose(net, given)
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))
