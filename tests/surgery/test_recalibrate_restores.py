"""Whatever goes wrong while a model is recalibrated: it is what it was, bit for bit."""

import copy
import os
import random
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.surgery.recalibration import restore
from batchnorm.surgery.recalibration.population import Population
from meddling import Counter, Stubborn


def model():
    torch.manual_seed(0)
    renormalized = bn.BatchNorm1d(4, renorm=bn.Renorm(warmup_steps=1), virtual_batch_size=3)
    made = nn.Sequential(
        Counter(),
        bn.BatchNorm1d(3),
        Stubborn(nn.Linear(3, 4), nn.Dropout(), renormalized),
        nn.BatchNorm1d(4, momentum=None),
        bn.BatchNorm1d(4),
        nn.Linear(4, 2),
    )
    made(torch.randn(8, 3)).sum().backward()
    del made[0].made  # so that a pass makes it anew
    made[3].momentum = 0.3
    bn.freeze(made[4])
    made[5].eval()
    made[1].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    made[1].register_forward_hook(lambda module, args, output: output + 1)
    return made


def batches(number=6):
    return [torch.randn(5, 3, generator=torch.Generator().manual_seed(k)) for k in range(number)]


def legacy():
    """The state of NumPy's global generator."""
    return np.random.get_state()[1].tolist()  # noqa: NPY002


def everything(model):
    """All there is to a model and to the random generators, to be compared."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    attributes = ("momentum", "eps", "track_running_stats", "paused", "renorm", "pools")
    return {
        "modes": [module.training for module in model.modules()],
        "tensors": {
            name: (id(t), t.detach().clone(), t.requires_grad, t._version)
            for name, t in (*model.named_parameters(), *model.named_buffers())
        },
        "grads": {
            n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
        },
        "hooks": [
            [dict(getattr(module, name)) for name in vars(module) if "hooks" in name]
            for module in model.modules()
        ],
        "layers": [[getattr(m, a, None) for a in attributes] for m in layers],
        "shown": repr(model),
        "buffers": [list(module._buffers) for module in model.modules()],
        "switched": model[2].switched,
        "random": (random.getstate(), legacy(), torch.get_rng_state()),
    }


def assert_same(found, expected, versions=False):
    for key in expected:
        if key == "tensors":
            assert found[key].keys() == expected[key].keys()
            for name, (identity, value, grad, version) in expected[key].items():
                assert found[key][name][0] == identity, name
                assert torch.equal(found[key][name][1], value), name
                assert found[key][name][2] == grad
                assert not versions or found[key][name][3] == version, name
        elif key == "grads":
            for name, grad in expected[key].items():
                other = found[key][name]
                assert (other is None) if grad is None else torch.equal(other, grad)
        elif key == "random":
            assert found[key][:2] == expected[key][:2]
            assert torch.equal(found[key][2], expected[key][2])
        else:
            assert found[key] == expected[key], key


def draw():
    """What augmentation does."""
    return random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002


def raising(error, at):
    def forward(model, batch):
        draw()
        forward.calls += 1
        if forward.calls == at:
            raise error
        return model(batch)

    forward.calls = 0
    return forward


class Loader:
    """Raises at a batch; can be gone through again."""

    def __init__(self, error, at):
        self.error, self.left = error, at

    def __iter__(self):
        for batch in batches():
            draw()
            self.left -= 1
            if self.left == 0:
                raise self.error
            yield batch


ERRORS = [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
# Three layers are measured, one after the other, over six batches, after one that shows the order.
each_place = pytest.mark.parametrize(
    ("passes", "at"), [(1, 1), (1, 2), (1, 6), (None, 1), (None, 2), (None, 9), (None, 19), (2, 10)]
)


@each_error
@each_place
def test_forward_raises(error, passes, at):
    net = model()
    before, forward = everything(net), raising(error, at)
    with pytest.raises(type(error)) as raised:
        bn.recalibrate(net, batches(), forward, passes=passes)
    assert raised.value is error and forward.calls == at
    assert_same(everything(net), before)


@each_error
@each_place
def test_the_loader_raises(error, passes, at):
    net = model()
    before, loader = everything(net), Loader(error, at)
    with pytest.raises(type(error)) as raised:
        bn.recalibrate(net, loader, passes=passes)
    assert raised.value is error and loader.left == 0
    assert_same(everything(net), before)


@each_error
@pytest.mark.parametrize("place", range(6))
def test_a_module_raises(error, place):
    """Also between a hook that was set and its layer."""
    net = model()

    def stop(module, args):
        raise error

    handle = net[place].register_forward_pre_hook(stop)
    before = everything(net)
    with pytest.raises(type(error)):
        bn.recalibrate(net, batches())
    assert_same(everything(net), before)
    handle.remove()
    bn.recalibrate(net, batches())


@each_error
@pytest.mark.parametrize("at", [1, 6])
def test_progress_raises(error, at):
    net = model()
    before = everything(net)

    def progress(done, total):
        if done == at:
            raise error

    with pytest.raises(type(error)):
        bn.recalibrate(net, batches(), progress=progress)
    assert_same(everything(net), before)


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("passes", [1, None])
def test_ctrl_c_while_statistics_are_written_and_reported(at, passes, monkeypatch):
    """Before each of the reads of a population; the first three of one pass are the writes."""
    net, calls = model(), []
    before, statistics = everything(net), Population.statistics

    def interrupted(self):
        calls.append(self)
        if len(calls) == at:
            raise KeyboardInterrupt
        return statistics(self)

    monkeypatch.setattr(Population, "statistics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bn.recalibrate(net, batches(), passes=passes)
    assert_same(everything(net), before)


@pytest.mark.parametrize("passes", [1, 2, None])
def test_success_changes_the_statistics_of_measured_layers_and_nothing_else(passes):
    net = model()
    before = everything(net)
    bn.recalibrate(net, batches(), lambda model, batch: (draw(), model(batch)), passes=passes)
    after = everything(net)
    measured = [f"{layer}.{name}" for layer in ("1", "2.2", "3") for name in _names(net[1])]
    changed = {
        n for n, t in after["tensors"].items() if not torch.equal(t[1], before["tensors"][n][1])
    }
    assert changed == set(measured)
    for name in measured:
        del before["tensors"][name], after["tensors"][name]
    assert_same(after, before, versions=False)


def _names(layer):
    return [n for n, _ in layer.named_buffers() if n != "num_nonfinite"]


def test_a_graph_of_before_can_still_be_gone_back_after_a_failure():
    """Restoring writes only what was written to: autograd would notice any other write."""
    net = nn.Sequential(bn.BatchNorm1d(3), nn.BatchNorm1d(3)).eval()
    x = torch.randn(8, 3, requires_grad=True)
    y = net(x).square().sum()
    with pytest.raises(RuntimeError, match="no"):
        bn.recalibrate(net, batches(), raising(RuntimeError("no"), 3))
    y.backward()
    assert x.grad is not None


def test_nothing_is_recorded_for_gradients_and_no_inference_tensors_stay():
    net = nn.Sequential(bn.BatchNorm1d(3), nn.Linear(3, 2))
    seen = []
    bn.recalibrate(net, batches(), lambda model, batch: seen.append(model(batch)))
    assert not any(y.requires_grad or y.is_inference() for y in seen)
    net(torch.randn(4, 3)).sum().backward()


def test_within_accumulate_and_no_update():
    net, other = (copy.deepcopy(nn.Sequential(bn.BatchNorm1d(3))) for _ in range(2))
    bn.recalibrate(net, batches())
    with bn.no_update(other), bn.accumulate(other):
        bn.recalibrate(other, batches())
    assert torch.equal(net[0].running_var, other[0].running_var)


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("fails", [True, False], ids=["failure", "success"])
def test_ctrl_c_while_the_model_is_restored(fails, monkeypatch):
    net, put_back = model(), restore._put_back
    before, pressed = everything(net), []

    def disturbed(*args):
        if not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        put_back(*args)

    monkeypatch.setattr(restore, "_put_back", disturbed)
    forward = raising(RuntimeError("no"), 2 if fails else 99)
    with pytest.raises(KeyboardInterrupt):
        bn.recalibrate(net, batches(), forward)
    assert pressed
    assert_same(everything(net), before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread():
    net, other = nn.Sequential(bn.BatchNorm1d(3)), nn.Sequential(bn.BatchNorm1d(3))
    bn.recalibrate(net, batches())
    thread = threading.Thread(target=bn.recalibrate, args=(other, batches()))
    thread.start()
    thread.join()
    assert torch.equal(net[0].running_var, other[0].running_var)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_script_beside_the_layers():
    script = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    net = nn.Sequential(script, bn.BatchNorm1d(3))
    before = {n: t.clone() for n, t in script.named_buffers()}
    result = bn.recalibrate(net, batches())
    assert [row.name for row in result.layers] == ["1"]
    assert all(torch.equal(t, before[n]) for n, t in script.named_buffers())
    assert script.training and script[1].training
