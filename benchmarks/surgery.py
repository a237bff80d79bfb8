"""Every verb on networks that nobody here wrote: what it did, how exactly, and what it gained.

    python benchmarks/surgery.py
    python benchmarks/surgery.py --networks resnet levit --verbs fold --rounds 9

Prints a table in Markdown. Networks are those of transformers, built from configurations with
random weights and statistics, and of examples/architectures.py; nothing is downloaded. `before` and
`after` are medians of processor time on one thread, the two in turns, after a round that does not
count:

fold         inference of the network, and of what it folds to
recalibrate  bare forward passes over the batches, and recalibrate on them
convert      a training step (forward and backward) of the network, and of `to="fused"`
insert       inference of the folded network, and of that with normalizations put in again

`difference` is, relative to the largest value, that of the outputs in evaluation (fold, insert), of
outputs and gradients of a training step in float64 (convert), or, for the network in float64, of
means, in standard deviations, and variances from those of one pass by brute force (recalibrate).
"""

import argparse
import copy
import importlib.util
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

import batchnorm as bn
from batchnorm.errors import BatchNormError

LEAVE = "leave alone"


class Row(NamedTuple):
    """One verb on one network."""

    norms: int
    handled: int
    left: str
    difference: float
    before: Callable[[], object]
    after: Callable[[], object]


def _transformers(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(**options, num_labels=10)
        suffix = "WithTeacher" if name == "Levit" else ""
        return getattr(transformers, f"{name}ForImageClassification{suffix}")(config)

    return make


def _example(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        path = Path(__file__).parent.parent / "examples" / "architectures.py"
        spec = importlib.util.spec_from_file_location("architectures", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, name)(**options)

    return make


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (  # of the size of a ResNet-18
        _transformers(
            "ResNet",
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
        ),
        (8, 3, 96, 96),
    ),
    "regnet": (
        _transformers(
            "RegNet", hidden_sizes=[24, 56, 152, 368], depths=[1, 1, 4, 7], groups_width=8
        ),
        (8, 3, 96, 96),
    ),
    "mobilenet_v2": (_transformers("MobileNetV2"), (8, 3, 96, 96)),
    "efficientnet": (
        _transformers(
            "EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280
        ),
        (4, 3, 96, 96),
    ),
    "levit": (
        _transformers("Levit", hidden_sizes=[128, 256, 384], num_attention_heads=[4, 6, 8]),
        (4, 3, 224, 224),
    ),
    "unet": (_example("UNet", width=32), (4, 3, 64, 64)),
    "densenet": (_example("DenseNet", growth=16, depth=4), (8, 3, 32, 32)),
    "generator": (_example("Generator", noise=64, width=64), (32, 64)),
}


def randomized(model: nn.Module) -> nn.Module:
    """Move statistics and affine parameters away from where they start."""
    for norm in norms_of(model).values():
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2.0)
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    return model


def norms_of(model: nn.Module) -> dict[str, _BatchNorm]:
    """Batch normalizations by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors that a model returns."""
    return [t for t in pytree.tree_leaves(dict(enumerate(_all(model(x))))) if t.is_floating_point()]


def _all(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def inference(model: nn.Module, *batches: Tensor) -> None:
    """Forward passes that keep nothing."""
    with torch.no_grad():
        for x in batches:
            model(x)


def apart(wanted: list[Tensor], found: list[Tensor]) -> float:
    """Largest difference, relative to the largest value."""
    size = max(float(t.abs().max()) for t in wanted)
    return max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True)) / size


def fold(model: nn.Module, x: Tensor) -> Row:
    """The network, and what it folds to."""
    folded, changes = bn.fold(model, x)
    model, folded = model.eval(), folded.eval()
    with torch.no_grad():
        difference = apart(outputs(model, x), outputs(folded, x))
    return _row(model, changes, difference, (model, x), (folded, x))


def insert(model: nn.Module, x: Tensor) -> Row:
    """The folded network, and that with normalizations again."""
    plain = bn.fold(model, x).model.eval()
    options = {"calibrate": [x]}
    changes = bn.insert(plain, x, dry_run=True, **options)
    full = bn.insert(plain, x, **options).eval()
    with torch.no_grad():
        difference = apart(outputs(plain, x), outputs(full, x))
    changes = [change for change in changes if not change.action.endswith("bias")]
    return _row(full, changes, difference, (plain, x), (full, x))


def _row(
    model: nn.Module,
    changes: list[Any],
    difference: float,
    before: tuple[nn.Module, Tensor],
    after: tuple[nn.Module, Tensor],
) -> Row:
    left = [change for change in changes if change.action == LEAVE]
    return Row(
        len(norms_of(model)),
        len(changes) - len(left),
        reasons([change.reason for change in left]),
        difference,
        lambda: inference(*before),
        lambda: inference(*after),
    )


def convert(model: nn.Module, x: Tensor) -> Row:
    """A training step of the network, and of that with fused layers."""
    fused, changes = bn.convert(model, x, to="fused")
    wide = [copy.deepcopy(m).double() for m in (model, fused)]
    steps = [trained(m, x.double()) for m in wide]
    left = [change.reason for change in changes if change.action == LEAVE]
    return Row(
        len(norms_of(model)),
        len(norms_of(model)) - len(left),
        reasons(left),
        max(apart([a], [b]) for a, b in zip(*steps, strict=True)),
        lambda: trained(model, x),
        lambda: trained(fused, x),
    )


def trained(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and gradients of one step in training mode, without dropout."""
    model.eval()
    for norm in norms_of(model).values():
        norm.train()
    model.zero_grad(set_to_none=False)
    y = outputs(model, x)[0]
    y.square().mean().backward()
    return [y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def recalibrate(model: nn.Module, x: Tensor) -> Row:
    """Forward passes over four batches, and the same measured."""
    batches = [x + 0.1 * k for k in range(4)]
    found = copy.deepcopy(model)
    result = bn.recalibrate(found, batches, progress=False)
    left = [layer.left for layer in result.layers if layer.left]
    return Row(
        len(result.layers),
        len(result.layers) - len(left),
        reasons(left),
        max(_errors(model, batches)),
        lambda: inference(model.eval(), *batches),
        lambda: bn.recalibrate(found, batches, progress=False),
    )


def _errors(model: nn.Module, batches: list[Tensor]) -> Iterator[float]:
    batches = [batch.double() for batch in batches]
    wide, found = (copy.deepcopy(model).eval().double() for _ in range(2))
    bn.recalibrate(found, batches, progress=False)
    seen: dict[str, list[Tensor]] = {}
    for name, norm in norms_of(wide).items():
        norm.momentum, norm.training = 0.0, True

        def look(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            seen.setdefault(name, []).append(args[0].transpose(0, 1).flatten(1))

        norm.register_forward_pre_hook(look)
    inference(wide, *batches)
    for name, parts in seen.items():
        values, norm = torch.cat(parts, 1), norms_of(found)[name]
        mean, var = values.mean(1), values.var(1)
        yield float(((norm.running_mean - mean).abs() / var.sqrt()).max())
        yield float((norm.running_var / var - 1).abs().max())


VERBS: dict[str, Callable[[nn.Module, Tensor], Row]] = {
    "fold": fold,
    "recalibrate": recalibrate,
    "convert": convert,
    "insert": insert,
}


def reasons(given: list[str]) -> str:
    """How many were left, and why, without the names of modules."""
    counts = Counter(re.sub(r" (?:in )?\w+ '[^']*'", "", reason) for reason in given)
    return "; ".join(f"{n}: {reason}" for reason, n in counts.most_common()) or "0"


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def line(name: str, verb: str, rounds: int) -> str:
    """Measure one row of the table."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x = randomized(make()), torch.randn(shape)
    try:
        row = VERBS[verb](model, x)
    except BatchNormError as error:
        return f"| {name} | {verb} | {len(norms_of(model))} | 0 | {error} | | | | |"
    pairs = [(seconds(row.before), seconds(row.after)) for _ in range(rounds + 1)][1:]
    before, after = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for b, a in pairs)
    if verb != "recalibrate":
        ratio = 1 / ratio
    what = "of the passes" if verb == "recalibrate" else "faster"
    numbers = f"{row.difference:.1e} | {before:.1f} ms | {after:.1f} ms | {ratio:.2f}x {what}"
    return f"| {name} | {verb} | {row.norms} | {row.handled} | {row.left} | {numbers} |"


def main() -> None:
    """Measure what the arguments ask for."""
    there = [verb for verb in VERBS if hasattr(bn, verb)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--verbs", nargs="+", choices=there, default=there)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | verb | BN | handled | left, and why | difference | before | after | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.networks:
        for verb in options.verbs:
            print(line(name, verb, options.rounds), flush=True)


if __name__ == "__main__":
    main()
