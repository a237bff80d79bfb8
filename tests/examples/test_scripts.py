"""The results of the examples: what the text below each table says of it."""

import copy

import pytest
import torch

import batchnorm as bn

from . import example, mean, of


def test_a_first_network():
    classifier = example("classifier")
    points, (folded, loaded) = classifier.main(seeds=2)
    last = {kind: of(points, kind=kind, epoch=classifier.EPOCHS) for kind in classifier.KINDS}
    anew = {kind: of(points, kind=kind, epoch=classifier.ANEW) for kind in classifier.KINDS}
    plain, normalized, leftover = classifier.KINDS
    assert min(point.accuracy for point in last[normalized]) > 0.95
    assert mean(last[normalized], "accuracy") > mean(last[plain], "accuracy") + 0.3
    assert mean(of(points, kind=leftover), "accuracy") < mean(last[normalized], "accuracy") - 0.1
    assert mean(anew[leftover], "accuracy") > mean(last[leftover], "accuracy")
    assert mean(anew[normalized], "accuracy") > 0.95
    assert loaded == 0
    assert folded < 1e-4


def test_folding_is_as_exact_as_the_network_was():
    classifier = example("classifier")
    data = classifier.digits(0)
    torch.manual_seed(0)
    model = bn.insert(classifier.network())
    list(classifier.learn(classifier.NORMALIZED, model, data, 0))
    folded, _ = bn.fold(model.eval(), data.x[:1])
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(data.test_x.double())
        error = float((model(data.test_x) - exact).abs().max())
        assert float((folded(data.test_x) - exact).abs().max()) <= 4 * error


def test_fine_tuning():
    fine_tuning = example("fine_tuning")
    runs = fine_tuning.main(seeds=2)
    assert all(run.same == run.frozen for run in runs)

    def gain(images, trained="network", of_what="new"):
        ways = [of(runs, images=images, trained=trained, frozen=way) for way in (False, True)]
        return mean(ways[1], of_what) - mean(ways[0], of_what)

    assert gain(fine_tuning.ONE_DIGIT) > 0.4
    assert gain(fine_tuning.FAINT) < 0
    assert abs(gain(fine_tuning.AS_BEFORE)) < 0.1
    assert gain(fine_tuning.AS_BEFORE, "last layer", "old") > 0


def test_a_frozen_network_says_of_old_digits_what_it_said():
    fine_tuning, shared = example("fine_tuning"), example("shared")
    data = shared.digits(0)
    model = fine_tuning.body()
    shared.fit(model, [(data.x[:64], data.y[:64])], 0.05)
    model.requires_grad_(False)
    with torch.no_grad():
        before = model.eval()(data.test_x)
    bn.freeze(model)
    head = torch.nn.Sequential(model, torch.nn.Linear(64, 10))
    shared.fit(head, shared.batches(data.x[:64], data.y[:64], 4, 1, 0), 0.05)
    assert torch.equal(model.train()(data.test_x), before)


@pytest.mark.slow
def test_small_batches():
    small = example("small_batches")
    runs = small.main(seeds=1, sizes=(4, 32))
    found = {(run.kind, run.size): run for run in runs}
    for size in (4, 32):  # gradients do not depend on the running statistics
        plain, accumulated = found[small.PLAIN, size], found[small.ACCUMULATED, size]
        assert plain.training_accuracy == accumulated.training_accuracy
    for kind in (small.PLAIN, small.ACCUMULATED, small.VIRTUAL):
        assert found[kind, 4].training_accuracy < found[kind, 4].accuracy - 0.1
    renormalized = found[small.RENORMALIZED, 4]
    assert abs(renormalized.training_accuracy - renormalized.accuracy) < 0.02
    assert renormalized.training_accuracy > found[small.PLAIN, 4].training_accuracy + 0.1
    assert min(run.accuracy for run in runs if run.size == 32) > 0.9


def test_a_virtual_batch_is_accumulation_in_one_pass():
    small, shared = example("small_batches"), example("shared")
    data, states = shared.digits(0), []
    for kind in (small.ACCUMULATED, small.VIRTUAL):
        torch.manual_seed(0)
        model = small.network(kind, 4).double()
        small.train(model, shared.batches(data.x[:96].double(), data.y[:96], 32, 1, 0), kind, 4)
        states.append(model.state_dict())
    assert int(states[0]["2.num_batches_tracked"]) == 3
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-12)


def test_padded_sequences(monkeypatch):
    padded = example("padded_sequences")
    monkeypatch.setattr(padded, "EPOCHS", 2)
    unmasked, masked = padded.main(seeds=1)
    assert not unmasked.masked
    assert 0.5 < masked.padding < 0.7
    # The running statistics are float32, and what they are compared with is float64.
    eps = torch.finfo(torch.float32).eps
    assert masked.mean_error < 4 * eps
    assert abs(masked.std_ratio - 1) < 4 * eps
    assert masked.together == masked.alone
    assert masked.difference < 1e-4
    assert unmasked.mean_error > 0.1
    assert unmasked.std_ratio < 0.8
    assert unmasked.difference > 0.5


def test_the_names_are_real():
    letters, languages = example("padded_sequences").names()
    assert len(letters) == len(languages) > 1300
    lengths = [len(name) for name in letters]
    assert (min(lengths), max(lengths)) == (3, 49)
    assert min(int(name.min()) for name in letters) > 0
    assert languages.bincount().min() > 80


def test_a_gan(monkeypatch):
    gan = example("gan")
    monkeypatch.setattr(gan, "STEPS", 100)
    runs = {run.way: run for run in gan.main(seeds=1)}
    apart, quiet, pooled = (runs[way] for way in (gan.APART, gan.QUIET, gan.POOLED))
    assert apart.distance == quiet.distance == pooled.distance
    assert torch.equal(apart.images, pooled.images)
    # Weights of the latest batches with momentum 0.1: drawn, (drawn,) real.
    assert apart.lean == pytest.approx((1 + 0.9) / (1 + 0.9 + 0.81), abs=0.1)
    assert apart.lean > quiet.lean + 0.1 > pooled.lean
    assert apart.variance < quiet.variance < pooled.variance


def test_where_the_running_means_of_a_discriminator_settle():
    gan = example("gan")
    torch.manual_seed(0)
    tell = gan.discriminator()
    real, drawn = torch.rand(64, 64), torch.rand(64, 64) + 1
    first, second = tell[:3](real).mean(0), tell[:3](drawn).mean(0)
    wanted = {gan.APART: 1 / 1.9, gan.POOLED: 0.5, gan.TOGETHER: 0.5}
    with torch.no_grad():
        for way, lean in wanted.items():
            for _ in range(100):
                gan.judge(tell, real, drawn, way)
            expected = first + lean * (second - first)
            torch.testing.assert_close(tell[3].running_mean, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_domains():
    domains = example("domains")
    runs = domains.main(seeds=2)
    for run in of(runs, way=domains.TURNS):
        assert "mixed_domains" in run.alarms
        assert "train_eval_gap" in run.alarms
    for way in (domains.MIXED, domains.OWN):
        assert all("mixed_domains" not in run.alarms for run in of(runs, way=way))
        assert mean(of(runs, way=way), "photos") > mean(of(runs, way=domains.TURNS), "photos")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.*:FutureWarning")
def test_export(tmp_path):
    trained, onnx, folded, program = example("export").main(out=tmp_path)
    norms = [
        sum("norm" in name.lower() for name in row.operations)
        for row in (trained, onnx, folded, program)
    ]
    assert norms == [4, 2, 0, 0]
    for row in (onnx, folded, program):
        assert row.off <= 4 * trained.off
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert files == {
        "as_trained.onnx": onnx.bytes,
        "folded.onnx": folded.bytes,
        "folded.pt2": program.bytes,
    }
