"""torch.ao.quantization keeps our layers in float, or refuses them; it never drops one."""

import copy
import warnings

import pytest
import torch
from torch import nn

import batchnorm as bn

from .cases import batch

with warnings.catch_warnings():  # torch's own, when it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.ao import quantization
    from torch.ao.quantization import quantize_fx

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel"),
    pytest.mark.filterwarnings("ignore:must run observer before calling calculate_qparams"),
]


def network(norm=bn.BatchNorm2d, **options):
    """A trained network; the statistics of its layer are those of batches of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 2), norm(4, **options), nn.ReLU())
    for seed in range(3):
        model(batch(seed=seed))
    return model


def error(quantized, model):
    """Largest error of a quantized network, as a share of the largest output."""
    x = batch(seed=9)
    expected = model(x)
    return ((quantized(x) - expected).abs().max() / expected.abs().max()).item()


def assert_error_is_torchs(quantize, model, its):
    """Hold the error to twice that with torch's layer, and two steps of 7 bits."""
    quantized = quantize(model)
    assert error(quantized, model) <= 2 * error(quantize(its), its) + 2 / 127
    return quantized


@pytest.mark.parametrize("activation", [None, "silu"])
def test_graph_mode_quantization_keeps_the_layer_in_float(activation):
    def quantize(model):
        mapping = quantization.get_default_qconfig_mapping("fbgemm")
        prepared = quantize_fx.prepare_fx(model, mapping, (batch(),))
        prepared(batch(seed=9))
        return quantize_fx.convert_fx(prepared)

    model, its = network(activation=activation).eval(), network(nn.BatchNorm2d).eval()
    quantized = assert_error_is_torchs(quantize, model, its)
    assert type(quantized.get_submodule("1")) is bn.BatchNorm2d


def test_quantization_aware_training_moves_the_statistics_as_training_does():
    def quantize(model):
        mapping = quantization.get_default_qat_qconfig_mapping("fbgemm")
        prepared = quantize_fx.prepare_qat_fx(copy.deepcopy(model).train(), mapping, (batch(),))
        for seed in range(3):
            prepared(batch(seed=seed)).square().mean().backward()
            model.train()(batch(seed=seed))
        return quantize_fx.convert_fx(prepared.eval()), model.eval()

    (quantized, model), (its_quantized, its) = map(quantize, (network(), network(nn.BatchNorm2d)))
    assert quantized.get_submodule("1").num_batches_tracked == 6
    assert error(quantized, model) <= 2 * error(its_quantized, its) + 2 / 127


@pytest.mark.parametrize("function", ["fuse_modules", "fuse_modules_qat"])
def test_fusion_by_name_refuses_what_it_does_not_know(function):
    model = network().train(function == "fuse_modules_qat")
    with pytest.raises(AssertionError, match="did not find fuser method"):
        getattr(quantization, function)(model, ["0", "1", "2"])


def test_eager_quantization_refuses_quantized_values():
    model = nn.Sequential(
        quantization.QuantStub(), *network().eval(), quantization.DeQuantStub()
    ).eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(model)
    prepared(batch())
    quantized = quantization.convert(prepared)
    with pytest.raises(TypeError, match="expected a floating point input"):
        quantized(batch())


def test_layer_left_out_of_eager_quantization_stays_in_float():
    def quantize(model):
        conv, norm, relu = model
        quant, dequant = quantization.QuantStub, quantization.DeQuantStub
        mixed = nn.Sequential(quant(), conv, dequant(), norm, quant(), relu, dequant()).eval()
        mixed.qconfig = quantization.get_default_qconfig("fbgemm")
        norm.qconfig = None
        prepared = quantization.prepare(mixed)
        prepared(batch(seed=9))
        return quantization.convert(prepared)

    assert_error_is_torchs(quantize, network().eval(), network(nn.BatchNorm2d).eval())
