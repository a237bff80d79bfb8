"""A monitor writes what a batch says about the layers, and leaves training as it was."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.errors import OptionError, SurgeryError


def network(norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        norm(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        norm(6),
    )


def batches(number, size=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 1, 8, 8, generator=generator) for _ in range(number)]


def train(model, data):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for batch in data:
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def by_hand(layer, x):
    """The same quantities with loops over channels and samples, in double precision."""
    sums = {key: [] for key in ("mean", "std", "effective", "share", "dead", "square", "max")}
    for channel in range(x.shape[1]):
        values = x[:, channel].double().flatten()
        mean = values.sum() / len(values)
        var = ((values - mean) ** 2).sum() / len(values)
        one_each = torch.stack([sample[channel].double().mean() for sample in x])
        spread = ((one_each - one_each.mean()) ** 2).sum() / (len(x) - 1)
        effective = min(len(x) * var / spread, len(values))
        output = (values - mean) / (var + layer.eps).sqrt()
        output = output * layer.weight[channel] + layer.bias[channel]
        running = layer.running_var[channel].double()
        sums["mean"].append((layer.running_mean[channel] - mean) ** 2 / (var + layer.eps))
        sums["std"].append((((running + layer.eps) / (var + layer.eps)).log() / 2) ** 2)
        sums["effective"].append(effective)
        sums["share"].append(layer.eps / (var + layer.eps))
        sums["dead"].append(float(not (output > 0).any()))
        sums["square"].append((values**2).mean())
        sums["max"].append(values.abs().max())
    return {
        "mean_error": math.sqrt(sum(sums["mean"]) / x.shape[1]),
        "log_std_error": math.sqrt(sum(sums["std"]) / x.shape[1]),
        "effective_batch": sorted(sums["effective"])[(x.shape[1] - 1) // 2],
        "eps_share": sorted(sums["share"])[(x.shape[1] - 1) // 2],
        "dead": sum(sums["dead"]) / x.shape[1],
        "input_rms": math.sqrt(sum(sums["square"]) / x.shape[1]),
        "input_max": max(sums["max"]),
        "weight_rms": math.sqrt((layer.weight.double() ** 2).mean()),
        "bias_rms": math.sqrt((layer.bias.double() ** 2).mean()),
    }


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, bn.BatchNorm2d], ids=["torch", "ours"])
def test_the_numbers_are_those_of_the_definition(norm):
    model = network(norm)
    train(model, batches(5))
    with torch.no_grad():
        model[1].bias[2] = -9.0
        model[4].weight[:3] *= -1
    batch = batches(1)[0] * 3
    reference = copy.deepcopy(model)
    with bn.Monitor(model) as monitor:
        model(batch)
    x = reference[0](batch)
    expected = {f"batchnorm/1/{k}": v for k, v in by_hand(reference[1], x).items()}
    y = reference[:4](batch)
    expected |= {f"batchnorm/4/{k}": v for k, v in by_hand(reference[4], y).items()}
    (step, values), *rest = monitor.history
    assert step == 0 and not rest
    assert expected["batchnorm/1/dead"] == 0.25
    # Float32 on at most 288 values, in sums of a few hundred roundings of 6e-8.
    assert values == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-4)


def test_every_third_forward_is_written_at_once():
    model = network()
    seen = []
    monitor = bn.Monitor(model, every=3, log=lambda values, step: seen.append((step, len(values))))
    for count, batch in enumerate(batches(7), start=1):
        model(batch)
        assert len(seen) == (count + 2) // 3
    monitor.close()
    assert seen == [(0, 18), (3, 18), (6, 18)]
    model(batches(1)[0])
    monitor.close()
    assert len(seen) == 3


def test_training_goes_on_as_without():
    plain, watched = network(), network()
    expected = train(plain, batches(6))
    with bn.Monitor(watched, every=2):
        assert train(watched, batches(6)) == expected
    for one, other in zip(plain.state_dict().items(), watched.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in watched.modules())


def test_evaluation_does_not_count():
    model = network()
    with bn.Monitor(model, every=2) as monitor:
        for batch in batches(3):
            model.train()(batch)
            model.eval()(batch)
    assert [step for step, _ in monitor.history] == [0, 2]
    assert monitor.forwards == 3


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


def test_a_recomputed_forward_counts_once():
    model = Checkpointed()
    with bn.Monitor(model, every=1) as monitor:
        train(model, batches(3))
    assert [step for step, _ in monitor.history] == [0, 1, 2]


def test_a_layer_that_is_not_called_holds_nothing_up():
    model = nn.ModuleList([network(), nn.BatchNorm2d(6)])
    with bn.Monitor(model, every=2) as monitor:
        for batch in batches(3):
            model[0](batch)
        assert [step for step, _ in monitor.history] == [0]
    assert [step for step, _ in monitor.history] == [0, 2]
    assert {tag.split("/")[1] for tag in monitor.history[1][1]} == {"0.1", "0.4"}


def test_a_frozen_layer_is_measured_and_another_counts():
    model = network()
    bn.freeze(model[1])
    with bn.Monitor(model) as monitor:
        for batch in batches(2):
            model.train()(batch)
    assert monitor.forwards == 2
    assert "batchnorm/1/mean_error" in monitor.history[0][1]


def test_layers_without_statistics_or_parameters():
    norm = nn.BatchNorm2d(1, affine=False, track_running_stats=False)
    with bn.Monitor(norm) as monitor:
        norm(batches(1)[0])
    keys = {tag.removeprefix("batchnorm/model/") for tag in monitor.history[0][1]}
    assert keys == {"dead", "effective_batch", "eps_share", "input_max", "input_rms"}


class Writer:
    def __init__(self):
        self.written = []

    def add_scalar(self, tag, scalar_value, global_step):
        self.written.append((tag, scalar_value, global_step))


def test_a_writer_gets_scalars():
    model, writer = network(), Writer()
    with bn.Monitor(model, every=2, log=writer) as monitor:
        for batch in batches(4):
            model(batch)
    assert not monitor.history
    assert [step for _, _, step in writer.written] == [0] * 18 + [2] * 18
    assert writer.written[0][0] == "batchnorm/1/effective_batch"
    assert all(type(value) is float for _, value, _ in writer.written)


def test_an_exception_in_the_model_takes_the_hooks_away():
    model = network()
    with pytest.raises(RuntimeError), bn.Monitor(model):
        model(torch.zeros(2, 1, 2, 2))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_compiled_models_are_refused():
    model = torch.compile(network(), backend="eager")
    with pytest.raises(SurgeryError, match="expected a model that is not compiled"):
        bn.Monitor(model)
    part = network()
    part[1].compile(backend="eager")
    with pytest.raises(SurgeryError, match=r"^1: expected"):
        bn.Monitor(part)


def test_what_cannot_be_watched_is_said():
    with pytest.raises(OptionError, match="every to be a positive int, found 0"):
        bn.Monitor(network(), every=0)
    with pytest.raises(OptionError, match="found int"):
        bn.Monitor(network(), log=3)
    with pytest.raises(SurgeryError, match=r"see batchnorm\.insert"):
        bn.Monitor(nn.Linear(1, 1))
