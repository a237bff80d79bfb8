"""Fold, export to ONNX and to `torch.export`, run the files, and compare.

    python examples/export.py [--out FOLDER]

A network with batch normalization on the pixels, behind layers and in front of them is trained on
digits, folded, and exported for any number of images; ONNX Runtime and PyTorch run what is in the
files.

It prints:

    0: fold into Conv2d '1' (nothing else feeds its input)
    5: fold into Linear '7' (nothing else feeds its input)
    2: fold into Conv2d '1' (nothing else reads its output; relu stays)
    8: fold into Linear '7' (nothing else reads its output; relu stays)

                              normalizations  operations    file  off by
    as trained, PyTorch                    4          10           4e-06
    as trained, ONNX Runtime               2          10  69 KiB   3e-06
    folded, ONNX Runtime                   0           8  63 KiB   4e-06
    folded, torch.export                   0           8  75 KiB   4e-06

"normalizations" are those left in the program. "off by" is the largest difference of a score, over
all test digits, from the network as trained, in float64; the first row says what float32 does by
itself. Exporters fold what stands behind a layer, but not what stands in front of one; `bn.fold`
does both. Scores, being up to ten or so, are as good as before.

A file of ONNX holds data only. One of `torch.export`, like any pickle, can run code when it is
loaded: load your own.
"""

import copy
import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import altair as alt
import onnx
import onnxruntime
import torch
from files import write
from pictures import BLUE, ORANGE, kind_color
from shared import batches, digits, fit, run, show
from torch import Tensor, nn

import batchnorm as bn

ANY = ({0: torch.export.Dim.DYNAMIC},)
"""The first axis of the one input is as long as it likes."""


class Row(NamedTuple):
    """The network in one form: what it consists of, its file, by how much a score is off."""

    name: str
    operations: list[str]
    bytes: int
    off: float


def network() -> nn.Sequential:
    """Normalization on the input, behind layers, and, the third, in front of one."""
    return nn.Sequential(
        bn.BatchNorm2d(1, affine=False),
        nn.Conv2d(1, 16, 3, bias=False),
        bn.BatchNorm2d(16, activation="relu"),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        bn.BatchNorm2d(32),
        nn.Flatten(),
        nn.Linear(128, 64, bias=False),
        bn.BatchNorm1d(64, activation="relu"),
        nn.Linear(64, 10),
    )


def trained(seed: int = 0) -> nn.Module:
    """Train, and measure the statistics anew."""
    data = digits(seed)
    torch.manual_seed(seed)
    model = network()
    fit(model, batches(data.x, data.y, 64, 4, seed), 0.05)
    bn.recalibrate(model, data.x.split(64), progress=False)
    return model.eval()


def to_onnx(model: nn.Module, x: Tensor, path: Path) -> None:
    """Export for ONNX Runtime."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # torchvision is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about torch
        program = torch.onnx.export(
            model, (x,), dynamo=True, dynamic_shapes=ANY, input_names=["images"], verbose=False
        )
    write(path, program.save)


def run_onnx(path: Path, x: Tensor) -> tuple[Tensor, list[str]]:
    """Score images by ONNX Runtime; also, of which operations the file consists."""
    session = onnxruntime.InferenceSession(path)
    scores = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    return scores, [node.op_type for node in onnx.load(path).graph.node]


def run_program(path: Path, x: Tensor) -> tuple[Tensor, list[str]]:
    """Score images by a program of `torch.export`; also, of which operations it consists."""
    program = torch.export.load(path)
    names = [node.name for node in program.graph.nodes if node.op == "call_function"]
    return program.module()(x), names


def main(out: Path | None = None) -> list[Row]:
    """Train, fold, export, run."""
    model = trained()
    with TemporaryDirectory() as folder, torch.no_grad():
        rows = compare(model, digits().test_x, out or Path(folder))
    cells = [
        [
            row.name,
            str(sum("norm" in name.lower() for name in row.operations)),
            str(len(row.operations)),
            f"{row.bytes / 1024:.0f} KiB" if row.bytes else "",
            f"{row.off:.0e}",
        ]
        for row in rows
    ]
    show(["", "normalizations", "operations", "file", "off by"], cells)
    return rows


def compare(model: nn.Module, x: Tensor, folder: Path) -> list[Row]:
    """Run the network in four ways on the same images."""
    exact = copy.deepcopy(model).double()(x.double())
    two = x[:2].clone()  # a program keeps its example, and of a view all that it is a view of
    folded, changes = bn.fold(model, two)
    print(changes, end="\n\n")

    def row(name: str, path: Path, program: tuple[Tensor, list[str]]) -> Row:
        size = path.stat().st_size if path.exists() else 0
        return Row(name, program[1], size, float((program[0] - exact).abs().max()))

    layers = [type(layer).__name__ for layer in model.children()]
    rows = [row("as trained, PyTorch", folder / "none", (model(x), layers))]
    for name, some in (("as trained", model), ("folded", folded)):
        path = folder / f"{name.replace(' ', '_')}.onnx"
        to_onnx(some, two, path)
        rows.append(row(f"{name}, ONNX Runtime", path, run_onnx(path, x)))
    path = folder / "folded.pt2"
    program = torch.export.export(folded, (two,), dynamic_shapes=ANY)
    write(path, lambda temporary: torch.export.save(program, temporary))
    return [*rows, row("folded, torch.export", path, run_program(path, x))]


def picture(rows: list[Row]) -> alt.Chart:
    """Draw the operations from above, those of batch normalization apart."""
    kinds = {True: "batch normalization", False: "other operations"}
    cells = [
        {"in": row.name, "place": k, "name": name, "kind": kinds["norm" in name.lower()]}
        for row in rows
        for k, name in enumerate(row.operations)
    ]
    top = alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False)
    base = alt.Chart(alt.Data(values=cells)).mark_text(fontSize=12)
    return base.encode(
        x=alt.X("in:N", title=None, sort=[row.name for row in rows], axis=top),
        y=alt.Y("place:O", axis=None),
        text="name:N",
        color=kind_color({kinds[True]: ORANGE, kinds[False]: BLUE}),
    ).properties(width={"step": 150}, height={"step": 22})


if __name__ == "__main__":
    run(main, picture)
