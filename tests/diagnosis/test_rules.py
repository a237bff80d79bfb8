"""What each rule finds and lets pass, beside the planted mistakes of `test_faults.py`."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.diagnosis import distances as beyond
from batchnorm.diagnosis import rules
from batchnorm.diagnosis.evidence import BATCH, INFERENCE, RECALIBRATED, REDRAWN, Gap
from batchnorm.diagnosis.rules import (
    diverged_replicas,
    dropout_before,
    mixed_domains,
    train_eval_gap,
    unpooled_micro_batches,
)


def data(number=10, size=32, features=6, shift=lambda batch: 0.0):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, features, generator=generator) + shift(k) for k in range(number)]


def images(number=6, size=8):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 2, 6, 6, generator=generator) for _ in range(number)]


def mlp(norm=nn.BatchNorm1d):
    torch.manual_seed(0)
    hidden = (nn.Linear(6, 12, bias=False), norm(12), nn.ReLU(), nn.Linear(12, 3))
    return nn.Sequential(*hidden)


def seen(model, batches, recalibrate=True, **options):
    """Evidence of a model whose statistics are right."""
    if recalibrate:
        bn.recalibrate(model, batches, progress=False)
    return bn.diagnose(model, batches, progress=False, **options).evidence


@pytest.fixture(scope="module")
def healthy():
    return seen(mlp(), data())


def changed(evidence, name="1", **fields):
    """The same evidence, with something else in one layer, or without a layer's name in it."""
    own = {k: fields.pop(k) for k in list(fields) if k in EVIDENCE_FIELDS}
    layer = dataclasses.replace(evidence.layers[name], **fields)
    return dataclasses.replace(evidence, layers={**evidence.layers, name: layer}, **own)


EVIDENCE_FIELDS = {"optimizer_steps", "world_size", "gaps", "losses", "training"}


def findings(rule, evidence):
    return list(getattr(rules, rule).check(evidence))


def severities(rule, evidence):
    return [(f.layer, f.severity) for f in findings(rule, evidence)]


def test_nothing_is_wrong_with_the_healthy_one(healthy):
    found = [f for rule in rules.RULES for f in rule(healthy)]
    assert not found


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e-3], ids=["nan", "inf", "negative"])
def test_statistics_that_are_no_numbers(healthy, value):
    var = healthy.layers["1"].running_var.clone()
    var[3] = value
    (found,) = findings("nonfinite_statistics", changed(healthy, running_var=var))
    assert found.severity == "error"
    assert found.numbers == {"channels": 1.0, "of": 12.0}


def test_missed_updates_are_worth_knowing(healthy):
    evidence = changed(healthy, num_nonfinite=3)
    assert severities("nonfinite_statistics", evidence) == [("1", "information")]


def test_new_statistics_may_be_right():
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))
    assert not findings("never_updated", seen(model, data(), recalibrate=False))
    wide = [3 * batch for batch in data()]
    assert severities("never_updated", seen(model, wide, recalibrate=False)) == [("0", "error")]


def test_few_updates_are_enough_where_the_statistics_are_right(healthy):
    assert healthy.layers["1"].num_batches_tracked == 10  # of which (1 - 0.1)^10 = 0.35 is left
    assert not findings("slow_momentum", healthy)
    wrong = healthy.layers["1"].running_mean + 0.2 * healthy.layers["1"].running_var.sqrt()
    evidence = changed(healthy, running_mean=wrong)
    assert severities("slow_momentum", evidence) == [("1", "warning")]
    assert not findings("slow_momentum", changed(evidence, momentum=None))
    assert not findings("slow_momentum", changed(evidence, num_batches_tracked=40))


def test_stale_statistics_leave_what_others_explain(healthy):
    layer = healthy.layers["1"]
    wrong = changed(healthy, running_mean=layer.running_mean + layer.running_var.sqrt())
    assert not findings("stale_statistics", wrong)  # a matter of momentum
    assert severities("slow_momentum", wrong) == [("1", "error")]
    late = changed(wrong, num_batches_tracked=1000)
    assert severities("stale_statistics", late) == [("1", "error")]
    assert not findings("slow_momentum", late)


def test_distances_leave_noise_and_channels_that_rarely_change():
    x = data(16, 32)
    for k, batch in enumerate(x):
        batch[:, 0] *= k < 2  # changes in two of sixteen batches
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))
    layer = seen(model, x).layers["0"]
    var = layer.running_var.clone()
    var[0] = 100.0
    assert beyond.distances(dataclasses.replace(layer, running_var=var)).log_std == 0
    var[1] *= math.exp(2 * 1.5)
    far = beyond.distances(dataclasses.replace(layer, running_var=var))
    # One of the five channels that count is off by 1.5, less the interval that any variance
    # between that within batches and that of all is right in.
    assert far.log_std == pytest.approx(1.5 / math.sqrt(5), rel=0.02)
    assert far.mean == 0
    noise = math.sqrt(0.1 / 1.9 / 32)  # of an average with momentum 0.1 over batches of 32
    for times, is_seen in ((2, False), (8, True)):
        mean = layer.running_mean + times * noise * layer.running_var.sqrt()
        far = beyond.distances(dataclasses.replace(layer, running_mean=mean))
        assert (far.mean > 0) == is_seen


def test_momentum_of_one_half_is_the_last_that_passes(healthy):
    assert not findings("reversed_momentum", changed(healthy, momentum=0.5))
    evidence = changed(healthy, momentum=0.9)
    assert severities("reversed_momentum", evidence) == [("1", "warning")]
    assert "momentum = 0.1" in findings("reversed_momentum", evidence)[0].remedy
    assert not findings("reversed_momentum", changed(evidence, mode="frozen"))
    assert not findings("reversed_momentum", changed(evidence, momentum=None))


@pytest.mark.parametrize(
    ("size", "expected"), [(16, []), (15, [("1", "warning")]), (3, [("1", "error")])]
)
def test_batches_below_sixteen_are_small_and_below_four_tiny(size, expected):
    assert severities("tiny_batch", seen(mlp(), data(16, size))) == expected


def test_pixels_make_up_for_samples():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    (layer,) = seen(model, images(size=2)).layers.values()
    assert layer.runs[BATCH].samples.tolist() == [2.0] * 6
    assert not findings("tiny_batch", seen(model, images(size=2)))  # 36 independent pixels each


def test_synchronized_replicas_make_up_for_samples(healthy):
    evidence = seen(mlp(), data(16, 8))
    assert severities("tiny_batch", changed(evidence, sync=True)) == [("1", "warning")]
    assert not findings("tiny_batch", changed(evidence, sync=True, world_size=2))
    assert findings("tiny_batch", changed(evidence, world_size=2))


def test_renormalized_small_batches_are_worth_knowing():
    evidence = seen(mlp(lambda n: bn.BatchNorm1d(n, renorm=bn.Renorm())), data(16, 8))
    assert severities("tiny_batch", evidence) == [("1", "information")]


def test_a_last_batch_of_one_is_an_error():
    evidence = seen(mlp(), [*data(4), torch.randn(1, 6)])
    (found,) = findings("tiny_batch", evidence)
    assert found.severity == "error"
    assert found.numbers == {"calls": 1.0, "of": 5.0}
    assert "drop_last=True" in found.remedy


@pytest.mark.parametrize(
    ("tracked", "updates", "expected"),
    [
        (100, 1, 1),
        (400, 1, 4),
        (403, 1, 4),  # within the next step
        (404, 1, 1),  # of another training
        (800, 2, 4),  # a shared layer
        (6400, 1, 64),
        (6500, 1, 1),
    ],
)
def test_micro_batches_are_counted(healthy, tracked, updates, expected):
    layer = dataclasses.replace(healthy.layers["1"], num_batches_tracked=tracked, updates=updates)
    assert unpooled_micro_batches.per_step(layer, 100) == expected


def test_large_micro_batches_and_replicas_pass(healthy):
    many = changed(healthy, num_batches_tracked=400, optimizer_steps=100, world_size=4)
    assert not findings("unpooled_micro_batches", many)  # of 32
    assert not findings("unpooled_replicas", many)
    small = changed(
        seen(mlp(), data(16, 20)), num_batches_tracked=400, optimizer_steps=100, world_size=4
    )
    assert severities("unpooled_micro_batches", small) == [("1", "warning")]
    assert severities("unpooled_replicas", small) == [("1", "warning")]
    assert not findings("unpooled_replicas", changed(small, sync=True))


def test_a_replica_that_is_no_number_has_diverged(healthy):
    layer = healthy.layers["1"]
    same = (layer.running_mean, layer.running_var)
    assert not findings("diverged_replicas", changed(healthy, replicas=(same, same)))
    nan = (layer.running_mean * math.nan, layer.running_var)
    evidence = changed(healthy, replicas=(same, nan))
    assert severities("diverged_replicas", evidence) == [("1", "warning")]
    noise = math.sqrt(0.1 / 1.9 / 32)
    for times, found in ((2, 0), (10, 1)):
        mean = layer.running_mean + times * noise * layer.running_var.sqrt()
        evidence = changed(healthy, replicas=((mean, layer.running_var),))
        assert len(findings("diverged_replicas", evidence)) == found
    assert 10 * noise > diverged_replicas.FAR


def test_few_batches_say_nothing_about_others():
    apart = data(3, shift=float)
    assert not findings("unlike_batches", seen(mlp(), apart))
    assert severities("unlike_batches", seen(mlp(), data(4, shift=float))) == [("1", "warning")]


def test_two_groups_are_split_best():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        values = torch.randn(7, generator=generator, dtype=torch.float64)
        total = float(((values - values.mean()) ** 2).sum())
        best = 0.0
        for size in range(2, 6):
            for chosen in itertools.combinations(range(7), size):
                mask = torch.zeros(7, dtype=torch.bool)
                mask[list(chosen)] = True
                within = sum(
                    float(((v - v.mean()) ** 2).sum()) for v in (values[mask], values[~mask])
                )
                best = max(best, 1 - within / total)
        assert mixed_domains.two_groups(values)[1] == pytest.approx(best)


def test_one_odd_batch_is_no_domain():
    evidence = seen(mlp(), data(10, shift=lambda k: 5.0 * (k == 3)))
    assert severities("unlike_batches", evidence) == [("1", "warning")]
    assert not findings("mixed_domains", evidence)
    two = seen(mlp(), data(10, shift=lambda k: 5.0 * (k % 3 == 0)))
    (found,) = findings("mixed_domains", two)
    assert sorted((found.numbers["one"], found.numbers["other"])) == [4.0, 6.0]
    assert not findings("unlike_batches", two)


class Twice(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.norm, self.scale = nn.BatchNorm1d(6), scale

    def forward(self, x):
        return self.norm(x) + self.norm(self.scale * x)


@pytest.mark.parametrize(("scale", "severity"), [(1.0, "information"), (3.0, "error")])
def test_a_shared_layer_is_an_error_where_its_places_differ(scale, severity):
    evidence = seen(Twice(scale), data())
    (found,) = findings("shared_layer", evidence)
    assert found.severity == severity
    # Variances 1 and scale², and their average.
    middle = (1 + scale**2) / 2
    expected = max(abs(math.log(v / middle) / 2) for v in (1, scale**2))
    assert found.numbers["log_std_apart"] == pytest.approx(expected, abs=0.01)


def test_a_bias_behind_pooling_is_not_asked_about():
    near = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    far = nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(2), nn.BatchNorm2d(3))
    assert severities("bias_before", seen(near, images())) == [("1", "information")]
    assert not findings("bias_before", seen(far, images()))


def test_pooling_between_activation_and_normalization_changes_nothing():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(3))
    assert severities("after_activation", seen(model, images())) == [("3", "information")]


class Residual(nn.Module):
    def __init__(self, pre_activation):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.layer1, self.layer2 = nn.Linear(6, 6), nn.Linear(6, 6)
        self.pre_activation = pre_activation

    def forward(self, x):
        if self.pre_activation:
            x = x + self.layer1(self.norm1(x).relu())
            return x + self.layer2(self.norm2(x).relu())
        x = self.norm1(x + self.layer1(x)).relu()
        return self.norm2(self.layer2(x) + 1.0)


def test_sums_that_go_on_are_pre_activation():
    after = seen(Residual(False), data())
    assert severities("after_residual", after) == [("norm1", "information")]
    assert not findings("after_residual", seen(Residual(True), data()))
    assert not findings("after_residual", dataclasses.replace(after, graph=None))


class Dropped(nn.Module):
    def __init__(self, rate, between):
        super().__init__()
        self.rate = rate
        self.layer1, self.layer2 = nn.Linear(6, 8), nn.Linear(8, 8)
        self.between = nn.BatchNorm1d(8) if between else nn.Identity()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        x = F.dropout(self.layer1(x).relu(), self.rate, self.training)
        return self.norm(self.layer2(self.between(x)))


def test_dropout_as_a_function_is_seen():
    model = Dropped(0.5, between=False)
    (found,) = findings("dropout_before", seen(model.train(), data()))
    assert (found.layer, found.severity) == ("norm", "warning")
    assert found.numbers["log_std_shift"] > dropout_before.SHIFT


def test_a_little_dropout_is_worth_knowing():
    evidence = seen(Dropped(0.01, between=False).train(), data())
    assert severities("dropout_before", evidence) == [("norm", "information")]


def test_dropout_counts_up_to_the_next_normalization():
    evidence = seen(Dropped(0.5, between=True).train(), data())
    assert [f.layer for f in findings("dropout_before", evidence)] == ["between"]


def test_decay_of_what_does_not_learn_is_no_matter():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    evidence = seen(model, data(), optimizer=optimizer)
    (found,) = findings("decayed_affine", evidence)
    assert found.numbers == {"weight": 0.1, "bias": 0.1}
    model[1].weight.requires_grad_(False)
    (found,) = findings("decayed_affine", seen(model, data(), optimizer=optimizer))
    assert found.numbers == {"bias": 0.1}
    adam = torch.optim.Adam(model.parameters())
    assert not findings("decayed_affine", seen(model, data(), optimizer=adam))


def two_layers():
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6))


def test_a_layer_in_evaluation_among_others_is_frozen_halfway():
    model = two_layers().train()
    model[1].eval()
    evidence = seen(model, data(), recalibrate=False)
    assert severities("frozen_halfway", evidence) == [("1", "warning")]
    assert not findings("frozen_halfway", seen(model.eval(), data(), recalibrate=False))


@pytest.mark.parametrize("affine", [True, False])
def test_what_is_frozen_on_purpose_is(affine):
    model = two_layers().train()
    bn.freeze(model[1], affine=affine)
    assert not findings("frozen_halfway", seen(model, data(), recalibrate=False))


def test_layers_without_parameters_cannot_be_frozen_halfway():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2))
    assert not findings("frozen_halfway", seen(model.train(), data()))


def gapped(healthy, whole, left, redrawn, flips=0.5, losses=(1.0, 2.0)):
    gaps = {
        (BATCH, INFERENCE): Gap(whole, flips),
        (BATCH, RECALIBRATED): Gap(left, flips),
        (REDRAWN, RECALIBRATED): Gap(redrawn, flips),
    }
    told = {} if losses is None else {BATCH: (losses[0],), INFERENCE: (losses[1],)}
    return dataclasses.replace(healthy, gaps=gaps, losses=told)


def stale(evidence):
    layer = evidence.layers["1"]
    return changed(evidence, running_mean=layer.running_mean + layer.running_var.sqrt())


def test_a_gap_is_split_into_three(healthy):
    parts = train_eval_gap.parts_of(stale(gapped(healthy, 1.3, 0.5, 0.3)))
    assert parts.lag == pytest.approx(1.3**2 - 0.5**2)
    assert parts.noise == pytest.approx(0.3**2)
    assert parts.shift == pytest.approx(0.5**2 - 0.3**2)
    assert parts.cause == "lag"
    # Recalibrating moves outputs where batches are unlike, too; no statistic is stale there.
    parts = train_eval_gap.parts_of(gapped(healthy, 1.3, 0.5, 0.3))
    assert (parts.lag, parts.noise) == (0.0, pytest.approx(0.3**2))
    assert parts.shift == pytest.approx(1.3**2 - 0.3**2)
    assert train_eval_gap.parts_of(gapped(healthy, 0.5, 0.5, 0.6)).shift == 0


@pytest.mark.parametrize(
    ("losses", "severity"),
    [((1.0, 2.0), "error"), ((1.0, 1.1), "information"), (None, "warning")],
)
def test_a_gap_is_judged_by_the_losses(healthy, losses, severity):
    evidence = stale(gapped(healthy, 0.5, 0.1, 0.1, losses=losses))
    assert severities("train_eval_gap", evidence) == [("1", severity)]


def test_noise_is_a_matter_of_small_batches(healthy):
    noisy = gapped(healthy, 0.5, 0.5, 0.5, losses=(1.0, 1.0))
    assert not findings("train_eval_gap", noisy)
    small = seen(mlp(), data(16, 8))
    (found,) = findings("train_eval_gap", gapped(small, 0.5, 0.5, 0.5, losses=(1.0, 1.0)))
    assert "batch noise" in found.what
    assert findings("train_eval_gap", gapped(healthy, 0.5, 0.5, 0.5, losses=(1.0, 2.0)))


def test_a_loss_that_is_worse_is_a_gap_of_its_own(healthy):
    assert not findings("train_eval_gap", gapped(healthy, 0.2, 0.2, 0.2, 0.01, (0.1, 0.1)))
    assert findings("train_eval_gap", gapped(healthy, 0.2, 0.2, 0.2, 0.01, (0.1, 0.3)))
    assert findings("train_eval_gap", gapped(healthy, 0.2, 0.2, 0.2, 0.01, (0.1, math.nan)))


def test_outputs_without_decisions_are_judged_by_their_distance(healthy):
    assert not findings("train_eval_gap", stale(gapped(healthy, 0.4, 0.1, 0.1, None, None)))
    assert findings("train_eval_gap", stale(gapped(healthy, 0.6, 0.1, 0.1, None, None)))
    assert findings("train_eval_gap", stale(gapped(healthy, math.nan, 0.1, 0.1, None, None)))


def test_every_finding_says_all(healthy):
    evidence = stale(changed(healthy, momentum=0.9, num_batches_tracked=1000))
    evidence = gapped(evidence, 1.0, 0.1, 0.1)
    found = [f for rule in rules.RULES for f in rule(evidence)]
    assert {f.rule for f in found} == {"train_eval_gap", "stale_statistics", "reversed_momentum"}
    for one in found:
        assert one.layer in healthy.layers
        assert all((one.what, one.why, one.remedy, one.source))
        assert one.severity in ("error", "warning", "information")
