"""`insert` on whole networks: those of `transformers`, those of the examples, and others."""

import copy
import pickle

import pytest
import torch

import batchnorm as bn
from batchnorm.errors import SurgeryError

from . import architectures, bare
from .nets import distance, norms, randomized, run
from .test_fold_architectures import OURS

IMAGES = (2, 3, 64, 64)
SMALL = (4, 3, 32, 32)
WITH_NORMS = {
    "resnet": (architectures.resnet, IMAGES),
    "regnet": (architectures.regnet, IMAGES),
    "mobilenet_v2": (architectures.mobilenet_v2, IMAGES),
    "efficientnet": (architectures.efficientnet, IMAGES),
    "levit": (architectures.levit, IMAGES),
    "unet": (OURS.UNet, SMALL),
    "generator": (OURS.Generator, (4, 16)),
}
SAME_PLACES = ("resnet", "regnet", "unet", "generator")
"""Networks in which every batch normalization stood between a layer and its activation."""
BARE = {
    "resnet": (lambda: bare.without_norms(architectures.resnet()), IMAGES, 15, 13),
    "regnet": (lambda: bare.without_norms(architectures.regnet()), IMAGES, 12, 10),
    "mobilenet_v2": (lambda: bare.without_norms(architectures.mobilenet_v2()), IMAGES, 35, 35),
    "efficientnet": (lambda: bare.without_norms(architectures.efficientnet()), IMAGES, 21, 21),
    "levit": (lambda: bare.without_norms(architectures.levit()), IMAGES, 8, 8),
    "unet": (lambda: bare.without_norms(OURS.UNet()), SMALL, 10, 10),
    "densenet": (lambda: bare.without_norms(OURS.DenseNet()), SMALL, 15, 15),
    "generator": (lambda: bare.without_norms(OURS.Generator()), (4, 16), 3, 2),
    "vit": (bare.vit, SMALL, 2, 2),
    "convnext": (bare.convnext, SMALL, 2, 2),
    "vgg": (bare.Vgg, SMALL, 3, 3),
    "pre-activation": (bare.PreActivation, SMALL, 5, 5),
}
"""Builder, shape of its input, numbers of insertions before and after activations."""


def batch(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def logits(output):
    return output.logits if hasattr(output, "logits") else output


@pytest.mark.parametrize("case", WITH_NORMS)
def test_leaves_networks_that_are_normalized(case):
    make, shape = WITH_NORMS[case]
    with pytest.raises(SurgeryError, match="nothing to insert") as refused:
        bn.insert(make(), batch(shape))
    assert str(refused.value).count("already normalized by") >= len(norms(make())) - 2


@pytest.mark.parametrize("case", SAME_PLACES)
def test_restores_what_was_taken_out(case):
    """In training, outputs and gradients of all parameters are those of the original network."""
    make, shape = WITH_NORMS[case]
    model, x = make().double().train(), batch(shape).double()
    new = bn.insert(bare.without_norms(model), x)
    assert len(norms(new)) == len(norms(model))
    new.load_state_dict(model.state_dict(), strict=False)

    wanted, found = logits(model(x)), logits(new(x))
    wanted.square().sum().backward()
    found.square().sum().backward()
    # Both round in float64; a normalization at another place changes the first digit.
    assert distance([found.detach()], [wanted.detach()]) < 1e-10
    plain = {
        n: p.grad for n, p in new.named_parameters() if ".norm." not in n and "_norm." not in n
    }
    old = dict(model.named_parameters())
    assert len(plain) + 2 * len(norms(new)) == len(old)
    assert distance(list(plain.values()), [old[name].grad for name in plain]) < 1e-9


@pytest.mark.parametrize("where", ["before_activation", "after_activation"])
@pytest.mark.parametrize("case", BARE)
def test_inserts_into_whole_networks(case, where):
    make, shape, *numbers = BARE[case]
    torch.manual_seed(0)
    model, x = make(), batch(shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    new = bn.insert(model, x, where=where)

    assert len(norms(new)) - len(norms(model)) == numbers[where == "after_activation"]
    assert [type(module) for module in model.modules()] == classes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    gone = before.keys() - new.state_dict().keys()
    assert all(name.endswith(".bias") for name in gone)
    assert all(issubclass(type(new.get_submodule(n)), type(m)) for n, m in model.named_modules())

    parameters = dict(new.train().named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3)
    logits(new(x)).square().mean().backward()
    optimizer.step()
    idle = {name for name, parameter in parameters.items() if parameter.grad is None}
    assert idle <= {n for n, p in model.named_parameters()}  # such as a mask token
    assert torch.isfinite(logits(new.eval()(x))).all()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["before_activation", "after_activation", "input"])
@pytest.mark.parametrize("case", BARE)
def test_folds_copies_and_saves_whole_networks(case, where):
    make, shape, *_ = BARE[case]
    torch.manual_seed(0)
    model, x = make(), batch(shape)
    if (case, where) == ("mobilenet_v2", "input"):  # pads by a function in front of its first layer
        model = torch.nn.Sequential(model)
    new = randomized(bn.insert(model, x, where=where)).double()
    x = x.double()
    wanted = run(new, x)
    folded, changes = bn.fold(new, x)
    assert distance(run(folded, x), wanted) < 1e-11  # rounding in float64
    if where == "before_activation":
        assert not norms(folded) and all(c.action.startswith("fold into") for c in changes)
    for twin in (copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        assert [type(m) for m in twin.modules()] == [type(m) for m in new.modules()]
        assert all(torch.equal(a, b) for a, b in zip(run(twin, x), wanted, strict=True))


@pytest.mark.parametrize("case", ["resnet", "vit", "vgg"])
def test_recalibrates_what_was_inserted(case):
    make, shape, number, _ = BARE[case]
    torch.manual_seed(0)
    new = bn.insert(make(), batch(shape))
    batches = [batch(shape, seed) for seed in range(3)]
    result = bn.recalibrate(new, batches)
    assert [row.left for row in result.layers] == [None] * number
    name = norms(new)[0]
    given = []
    handle = new.get_submodule(name).register_forward_pre_hook(lambda m, a: given.append(a[0]))
    with torch.no_grad():
        for one in batches:
            new.eval()(one)
    handle.remove()
    values = torch.cat(given).double().transpose(0, 1).flatten(1)
    norm = new.get_submodule(name)
    torch.testing.assert_close(norm.running_mean.double(), values.mean(1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), values.var(1), atol=1e-6, rtol=1e-5)
