"""`fold` on what `torch.export` gives and saves."""

import io
import warnings

import pytest
import torch
from torch import nn

import batchnorm as bn

from .nets import Net, distance, norms, randomized, reference, run
from .test_fold import FOLDED, images
from .test_fold_frozen import Frozen

CASES = ["conv2d", "grouped conv", "linear", "conv_transpose2d in groups", "norm, flatten, linear"]


def exported(model, x, save=True):
    program = torch.export.export(model.eval(), (x,))
    if save:
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        program = torch.export.load(file)
    return program.module()


def decomposed(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a class of torch's own
        return torch.export.export(model.eval(), (x,)).run_decompositions().module()


@pytest.mark.parametrize("case", CASES)
def test_folds_a_saved_program(case):
    make, x = FOLDED[case]
    torch.manual_seed(0)
    model = randomized(make())
    program = exported(model, x)
    state = {name: value.clone() for name, value in program.state_dict().items()}
    folded, changes = bn.fold(program, x)
    assert [c.action[:9] for c in changes] == ["fold into"] and not norms(folded)
    assert distance(run(folded, x), reference(model, x)) < 3e-6
    assert all(torch.equal(state[name], value) for name, value in program.state_dict().items())
    with torch.no_grad():
        again = torch.export.export(folded, (x,)).module()
        assert torch.equal(again(x), folded(x))
    assert "batch_norm" not in again.code


@pytest.mark.parametrize(
    "case", [*CASES, "conv1d", "conv3d", "conv_transpose1d", "norm, two heads"]
)
def test_folds_a_decomposed_program(case):
    make, x = FOLDED[case]
    torch.manual_seed(0)
    model = randomized(make())
    program = decomposed(model, x)
    folded, changes = bn.fold(program, x)
    assert [c.action[:9] for c in changes] == ["fold into"] and not norms(folded)
    assert distance(run(folded, x), reference(model, x)) < 3e-6
    assert "batch_norm" not in folded.code


def test_what_guards_the_inputs_of_a_program_stays():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), images(2, 3, 6, 6)
    folded, _ = bn.fold(decomposed(model, x), x)
    with pytest.raises(AssertionError, match="Guard failed"):
        folded(images(2, 3, 6, 7))


def test_what_export_has_written_as_arithmetic_is_named():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), Frozen(4)).eval(), images(2, 3, 6, 6)
    _, changes = bn.fold(exported(model, x), x)
    assert "fold the network, then export it" in str(changes)


def test_our_layer_exports_to_what_folds():
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), bn.BatchNorm2d(4, activation="relu")))
    x = images(2, 3, 6, 6)
    folded, _ = bn.fold(exported(model, x), x)
    assert not norms(folded)
    assert distance(run(folded, x), reference(model, x)) < 3e-6


def test_a_normalization_by_the_batch_stays_and_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    x = images(2, 3, 6, 6)
    program = exported(model, x)
    folded, changes = bn.fold(program, x)
    assert "is no layer that could be replaced" in str(changes)
    with torch.no_grad():
        assert torch.equal(folded(x), program(x))


def test_other_readers_are_seen_in_a_program_too():
    model = Net(
        lambda m, x: (lambda y: m.norm(y).relu() + y)(m.conv(x)),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    x = images(2, 3, 6, 6)
    folded, changes = bn.fold(exported(model, x, save=False), x)
    assert norms(folded) == ["norm"] and "reads it, too" in changes[0].reason
