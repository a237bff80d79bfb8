"""What is collected: any batch, any model, any state of it."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchnorm as bn
from batchnorm.diagnosis.evidence import BATCH, INFERENCE, RECALIBRATED, REDRAWN, TRAINING
from batchnorm.errors import OptionError, StatisticsError, SurgeryError
from batchnorm.records import DiagnosisResult, from_json


def mlp(norm=bn.BatchNorm1d):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), norm(4), nn.ReLU(), nn.Linear(4, 2))


def inputs(number=4, size=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, generator=generator) for _ in range(number)]


def trained(model, batches):
    """With the statistics of these batches."""
    bn.recalibrate(model, batches)
    return model


def collected(model, batches, *args, **kwargs):
    return bn.diagnose(model, batches, *args, **kwargs).evidence


@dataclass
class Batch:
    """A batch of no known kind."""

    images: torch.Tensor

    def __len__(self):
        return len(self.images)


class OfBatch(nn.Module):
    """Takes such a batch itself."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, batch):
        return self.net(batch.images)


class OfWords(nn.Module):
    """Takes keyword arguments and gives a dictionary."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, images, scale=1.0):
        return {"mask": torch.ones(len(images), dtype=torch.bool), "logits": self.net(images)}


STRUCTURES = {
    "tensor": (mlp, lambda x: x, None),
    "tuple": (mlp, lambda x: (x, torch.zeros(len(x))), None),
    "list": (mlp, lambda x: [x, "names"], None),
    "dictionary": (OfWords, lambda x: {"images": x}, None),
    "object": (OfBatch, Batch, None),
    "forward": (mlp, lambda x: {"a": [x]}, lambda model, batch: (1, model(batch["a"][0]))),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_batches_of_any_structure(structure):
    make, wrap, forward = STRUCTURES[structure]
    batches = [wrap(x) for x in inputs()]
    found = collected(make(), batches, forward=forward)
    expected = collected(mlp(), inputs())
    assert found.gaps[BATCH, INFERENCE] == expected.gaps[BATCH, INFERENCE]
    (layer,), (twin,) = found.layers.values(), expected.layers.values()
    assert torch.equal(layer.runs[BATCH].mean, twin.runs[BATCH].mean)
    can_redraw = structure not in ("list", "object")
    assert (REDRAWN in layer.runs) == can_redraw == (found.loader.redrawn is None)
    assert found.graph is not None, found.no_graph


def test_a_loss_sees_output_and_batch():
    batches = [(x, torch.arange(8) % 2) for x in inputs()]
    found = collected(mlp(), batches, lambda y, batch: nn.functional.cross_entropy(y, batch[1]))
    model = mlp()
    expected = [float(nn.functional.cross_entropy(model(x), y).detach()) for x, y in batches]
    assert found.losses[BATCH] == pytest.approx(expected)
    assert set(found.losses) == {BATCH, TRAINING, INFERENCE, REDRAWN, RECALIBRATED}
    grads = []
    for x, y in batches:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        grads.append(float(model[3].weight.grad.norm()))
    assert found.parameters["3.weight"].grad_norm == pytest.approx(sum(grads) / 4)


@pytest.mark.parametrize(
    ("loss", "message"),
    [(lambda y, b: y, r"found \(8, 2\)"), (lambda y, b: 1.0, "found float")],
    ids=["many", "no tensor"],
)
def test_a_loss_is_one_number(loss, message):
    with pytest.raises(OptionError, match=message):
        bn.diagnose(mlp(), inputs(), loss)


def test_layers_of_torch_and_ours_give_the_same():
    ours, torchs = (collected(mlp(norm), inputs()) for norm in (bn.BatchNorm1d, nn.BatchNorm1d))
    for run in ours.layers["1"].runs:
        mine, other = (evidence.layers["1"].runs[run] for evidence in (ours, torchs))
        torch.testing.assert_close(mine.mean, other.mean)
        torch.testing.assert_close(mine.output_rms, other.output_rms, rtol=1e-6, atol=0)
    assert (ours.layers["1"].is_ours, torchs.layers["1"].is_ours) == (True, False)


class Masked(nn.Module):
    """Residual, activation and mask of our layer."""

    def __init__(self):
        super().__init__()
        self.norm = bn.BatchNorm1d(3, activation="relu", virtual_batch_size=None)

    def forward(self, x, mask):
        return self.norm(x, residual=0.5 * x, mask=mask)


def test_residual_activation_and_mask():
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(3):
        mask = torch.rand(6, 5, generator=generator) > 0.3
        x = torch.randn(6, 3, 5, generator=generator)
        batches.append({"x": x.masked_fill(~mask[:, None], math.nan), "mask": mask})
    found = collected(Masked(), batches)
    calls = found.layers["norm"].runs[BATCH]
    for k, batch in enumerate(batches):
        keep = batch["mask"]
        values = batch["x"].movedim(1, 2)[keep].double()  # (values, C)
        assert calls.count[k].tolist() == [int(keep.sum())] * 3
        torch.testing.assert_close(calls.mean[k], values.mean(0))
        torch.testing.assert_close(calls.var[k], values.var(0, unbiased=False))
        means = batch["x"].double().nanmean(2)
        torch.testing.assert_close(calls.sample_mean[k], means.mean(0))
        torch.testing.assert_close(calls.sample_var[k], means.var(0))
        assert calls.maximum[k].tolist() == values.amax(0).tolist()
    assert found.activations["norm"].units == 3
    assert found.gaps[BATCH, RECALIBRATED].rms < 1


def test_sample_weights():
    """Weights that are whole numbers are repetitions, but for correction 1."""

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = bn.BatchNorm1d(2)

        def forward(self, x, weight):
            return self.norm(x, sample_weight=weight)

    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0, 2.0, 0.0, 3.0])
    calls = collected(Weighted(), [{"x": x, "weight": weight}]).layers["norm"].runs[BATCH]
    repeated = x.repeat_interleave(weight.long(), 0).double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(calls.mean[0], repeated.mean(1))
    torch.testing.assert_close(calls.var[0], repeated.var(1, unbiased=False))
    torch.testing.assert_close(calls.sample_mean[0], x[[0, 1, 3]].double().mean((0, 2)))


def test_a_model_without_batch_normalization():
    found = bn.diagnose(nn.Linear(3, 2), iter(()))
    assert "no batch normalization" in str(found) and "nothing was run" in found.verdict
    assert (found.findings, found.quantities, found.evidence) == ((), {}, None)
    assert from_json(DiagnosisResult, found.to_json()) == found.result


@pytest.mark.parametrize("way", ["shared module", "called twice"])
def test_a_shared_layer(way):
    norm = bn.BatchNorm1d(3)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = norm, (norm if way == "shared module" else nn.Identity())

        def forward(self, x):
            return self.a(x) + norm(2 * x + 1)

    found = collected(Twice(), inputs(3))
    (layer,) = found.layers.values()
    assert layer.aliases == (("b",) if way == "shared module" else ())
    assert (layer.calls, layer.updates) == (2, 2)
    calls = layer.runs[BATCH]
    assert calls.batch == (0, 0, 1, 1, 2, 2)
    torch.testing.assert_close(calls.mean[1], 2 * calls.mean[0] + 1)
    x = torch.cat(inputs(3)).double()
    pooled = torch.cat((x, 2 * x + 1))
    torch.testing.assert_close(calls.pooled().mean, pooled.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.population_var, pooled.var(0), rtol=1e-5, atol=0)


def test_modes():
    model = nn.Sequential(*(bn.BatchNorm1d(3) for _ in range(2)), nn.BatchNorm1d(3)).train()
    bn.freeze(model[0])
    model[2].eval()
    found = collected(model, inputs())
    assert [layer.mode for layer in found.layers.values()] == ["frozen", "learning", "evaluation"]
    assert [layer.updates for layer in found.layers.values()] == [0, 1, 0]
    lefts = [layer.not_recalibrated for layer in found.layers.values()]
    assert "frozen" in lefts[0] and lefts[1] is None and "taken to be frozen" in lefts[2]
    x = inputs()[0]
    expected = model[0].eval()(x)  # a frozen layer normalizes by its running statistics
    assert found.layers["1"].runs[BATCH].maximum[0].tolist() == pytest.approx(
        expected.amax(0).tolist()
    )


def test_a_model_in_evaluation_mode_is_run_as_in_training():
    found = collected(mlp().eval(), inputs())
    assert not found.training
    assert found.layers["1"].mode == "learning" and found.layers["1"].updates == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("norm", [bn.BatchNorm1d, nn.BatchNorm1d])
def test_other_precision(norm, dtype):
    model = mlp(norm).to(dtype)
    batches = [x.to(dtype) for x in inputs()]
    found = bn.diagnose(model, batches, lambda y, batch: y.float().square().mean())
    layer = found.evidence.layers["1"]
    assert (layer.input_dtype, layer.output_dtype) == (dtype, dtype)
    is_wide = norm is bn.BatchNorm1d and dtype is not torch.float64
    assert layer.running_dtype is (torch.float32 if is_wide else dtype)
    x = model[0](batches[0]).detach().double()
    torch.testing.assert_close(layer.runs[BATCH].mean[0], x.mean(0), rtol=1e-5, atol=1e-6)
    assert 0 < found.quantities["1"]["magnitude"] < 1


def test_nan_in_a_batch():
    batches = inputs()
    batches[1][2, 0] = math.nan
    batches[2][:] = math.inf
    found = bn.diagnose(mlp(), batches, lambda y, batch: y.square().mean())
    calls = found.evidence.layers["1"].runs[BATCH]
    assert calls.mean.isnan().all(1).tolist() == [False, True, True, False]
    whole = bn.diagnose(mlp(), [batches[0], batches[3]])
    both = [d.evidence.layers["1"] for d in (found, whole)]
    torch.testing.assert_close(both[0].population_mean, both[1].population_mean)
    json.loads(found.to_json())
    assert from_json(DiagnosisResult, found.to_json()) == found.result


def test_nan_in_the_running_statistics():
    model = mlp()
    model[1].running_var[2] = math.nan
    found = bn.diagnose(model, inputs())
    assert found.quantities["1"]["log_std_error"] is None
    assert found.evidence.layers["1"].running_var.isnan().tolist() == [False, False, True, False]
    assert found.result.layers[0].log_std_errors[2] is None
    assert from_json(DiagnosisResult, found.to_json()) == found.result


def test_nonfinite_raise_is_reported():
    model = mlp(lambda n: bn.BatchNorm1d(n, nonfinite="raise"))
    batches = inputs()
    batches[1][:] = math.nan
    found = collected(model, batches)
    assert RECALIBRATED not in found.layers["1"].runs
    assert any("NaN or infinity" in note for note in found.notes)


@pytest.mark.parametrize("norm", [bn.BatchNorm1d, nn.BatchNorm1d])
def test_a_last_batch_of_one_sample(norm):
    batches = [*inputs(3), inputs(1, size=1)[0]]
    found = collected(mlp(norm), batches)
    layer = found.layers["1"]
    assert (layer.runs[BATCH].degenerate, layer.runs[INFERENCE].degenerate) == (1, 0)
    assert found.loader.sizes == (8, 8, 8, 1) and found.loader.last_size == 1
    assert layer.updates == 1
    only = collected(mlp(norm), [batches[-1]])
    assert only.layers["1"].updates is None
    assert any("updates of a training step" in note for note in only.notes)


def test_a_data_loader():
    data = TensorDataset(torch.randn(50, 3))
    found = collected(mlp(), DataLoader(data, batch_size=16, shuffle=True), max_batches=2)
    assert (found.loader.seen, found.loader.total, found.loader.last_size) == (2, 4, 2)
    dropping = DataLoader(data, batch_size=16, drop_last=True)
    assert collected(mlp(), dropping).loader.last_size == 16


def test_a_generator_is_gone_through_once():
    found = collected(mlp(), (x for x in inputs()))
    assert found.loader.total is None
    assert found.gaps == collected(mlp(), inputs()).gaps


def test_replicas():
    model, other = mlp(), mlp()
    other[1].running_mean += 1
    states = [other.state_dict(), nn.ModuleDict({"module": other}).state_dict()]
    found = collected(model, inputs(), replicas=states)
    assert found.replicas == 2
    for mean, var in found.layers["1"].replicas:
        assert (mean.tolist(), var.tolist()) == ([1.0] * 4, [1.0] * 4)
    (bare,) = collected(
        bn.BatchNorm1d(3), inputs(), replicas=[bn.BatchNorm1d(3).state_dict()]
    ).layers.values()
    assert bare.replicas[0][1].tolist() == [1.0] * 3


def test_an_optimizer():
    model = mlp()
    groups = [{"params": model[1].parameters(), "weight_decay": 0.0}, {"params": [model[0].weight]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    for x in inputs(3):
        model(x).sum().backward()
        optimizer.step()
    found = collected(model, inputs(), optimizer=optimizer)
    assert (found.optimizer, found.optimizer_steps) == ("AdamW", 3)
    decays = {name: p.weight_decay for name, p in found.parameters.items()}
    assert decays["1.weight"] == 0.0 and decays["0.weight"] == 0.1 and decays["3.bias"] is None
    assert found.parameters["0.weight"].has_grad
    plain = torch.optim.SGD(model.parameters(), 0.1)
    assert collected(model, inputs(), optimizer=plain).optimizer_steps is None


def test_an_example_where_the_model_itself_is_not_called():
    model = nn.ModuleDict({"net": mlp()})
    found = collected(model, inputs(), forward=lambda model, batch: model["net"](batch))
    assert found.graph is None and "example=" in found.no_graph
    assert found.layers["net.1"].fed_by == ()


def test_dropout_is_on_in_training_only():
    """Its shift: a value that is kept is doubled, so that the second moment is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), bn.BatchNorm1d(3))
    found = collected(model, [torch.randn(4000, 3) + 1 for _ in range(2)])
    runs = found.layers["1"].runs
    ratio = runs[TRAINING].pooled().var() / runs[BATCH].pooled().var()
    # E[x²]·2 − 1 = 3 over 1; standard errors of both variances, about 0.05 together
    torch.testing.assert_close(ratio, torch.full_like(ratio, 3.0), rtol=0, atol=0.3)
    assert torch.equal(runs[BATCH].mean, runs[INFERENCE].mean)


def test_what_leaks_in_evaluation_mode():
    layer = nn.BatchNorm1d(3, track_running_stats=False)
    found = bn.diagnose(nn.Sequential(layer, nn.Linear(3, 2)), inputs())
    assert found.result.quantities["inference_leakage"] > 0.1
    assert found.evidence.layers["0"].not_recalibrated == "it keeps no running statistics"


def test_groups_of_runs_draw_the_same_random_numbers():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = bn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(x + torch.randn_like(x))

    model = Noisy()
    found = collected(model, inputs())
    runs = found.layers["norm"].runs
    assert torch.equal(runs[BATCH].mean, runs[INFERENCE].mean)


def test_a_layer_that_is_not_called():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle, self.norm = bn.BatchNorm1d(3), bn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(x)

    found = bn.diagnose(Idle(), inputs())
    assert list(found.evidence.layers) == ["norm", "idle"]
    idle = found.evidence.layers["idle"]
    assert (idle.runs, idle.calls) == ({}, 0)
    numbers = {k: v for k, v in found.quantities["idle"].items() if v is not None}
    of_weights = {"gamma": 1.0, "switched_off": 0.0, "updates": 0.0, "shift_over_scale": 0.0}
    assert numbers == of_weights


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (OptionError, {"batches": inputs(), "max_batches": 0}, "expected max_batches"),
        (OptionError, {"batches": [{"x": torch.zeros(2, 3)}]}, "pass forward="),
        (StatisticsError, {"batches": []}, "at least one batch"),
        (RuntimeError, {"batches": [torch.zeros(2, 5)]}, "shapes cannot be multiplied"),
    ],
    ids=["max_batches", "structure", "none", "shape"],
)
def test_bad_arguments(error, arguments, message):
    with pytest.raises(error, match=message):
        bn.diagnose(mlp(), **arguments)


def test_lazy_layers_are_refused():
    with pytest.raises(SurgeryError, match="Run one batch through the model first"):
        bn.diagnose(bn.LazyBatchNorm1d(), inputs())


def test_tensors_without_numbers_are_refused():
    with pytest.raises(SurgeryError, match="meta device"):
        bn.diagnose(mlp().to("meta"), inputs())


def test_progress_and_number_of_batches():
    seen = []
    bn.diagnose(mlp(), inputs(6), max_batches=3, progress=lambda *done: seen.append(done))
    assert seen[0] == (1, 15) and seen[-1] == (15, 15)


def test_a_healthy_network_has_no_finding_and_says_so():
    batches = inputs(20, size=64)
    found = bn.diagnose(trained(mlp(), batches), batches)
    assert not [f for f in found.findings if f.severity == "error"]
    assert found.quantities["1"]["mean_error"] < 1e-5


def test_what_is_printed():
    found = bn.diagnose(mlp(), inputs())
    assert str(found).startswith(found.verdict)
    assert "bn.recalibrate(model, batches)" in str(found)
    assert repr(found) == f"Diagnosis({found.verdict!r})"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_script_beside_the_layers_is_left_alone():
    script = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    model = nn.Sequential(script, bn.BatchNorm1d(3))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = collected(model, inputs())
    assert list(found.layers) == ["1"]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert script.training and script[1].training
    assert "There is no batch" in bn.diagnose(script, inputs()).verdict


@pytest.mark.slow
def test_a_compiled_model_runs_as_it_is_written():
    model = mlp()
    compiled = torch.compile(model, backend="eager")
    compiled(inputs()[0])
    expected = collected(model, inputs())
    found = collected(compiled, inputs())
    assert found.gaps == expected.gaps
    assert list(found.layers) == ["_orig_mod.1"]


def test_the_training_step_that_counts_updates_leaves_no_trace():
    """PyTorch's layers move running statistics without counting it in the tensors' versions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=1.0), nn.Linear(3, 2))
    batches = [5 + x for x in inputs()]
    expected = {name: t.clone() for name, t in model.state_dict().items()}
    leaks = collected(model, batches).leakage
    assert leaks[INFERENCE] == 0 < leaks[BATCH]
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
