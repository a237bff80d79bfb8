# %% [markdown]
# # Fold, export, compare
#
# A trained network is to run somewhere else: in ONNX Runtime, or as a program of `torch.export`
# without the code that made it. We train one, fold its batch normalization, export it both ways,
# and compare scores with those of the network in float64.
#
# What we expect: the same scores up to rounding, and a shorter program.

# %%
import copy
import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import batchnorm as bn

torch.set_num_threads(1)
found = load_digits()
x = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
y = torch.tensor(found.target)
torch.manual_seed(0)
order = torch.randperm(len(y))
train, test = order[:1344], order[1344:]

# %% [markdown]
# ## A network
#
# It has four normalizations: of the input, in place of scaling the pixels by hand; behind a
# convolution, with its activation inside; behind an activation, in front of a linear layer; behind
# a linear layer.

# %%
model = nn.Sequential(
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
optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
for _ in range(4):
    for batch in train[torch.randperm(1344)].split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
bn.recalibrate(model, x[train].split(64), progress=False)
model.eval()
with torch.no_grad():
    accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
print(f"{accuracy:.1%} of the test digits")
assert accuracy > 0.9

# %% [markdown]
# ## Folding
#
# In evaluation mode a normalization multiplies each channel by one number and adds another. A
# layer beside it can do that with its own weights.

# %%
folded, changes = bn.fold(model, x[:2])
print(changes)
print(folded)
assert all(change.action.startswith("fold") for change in changes)

# %% [markdown]
# How exact is that? Everything in float32 is rounded; so the measure is how far the network as
# trained is from itself in float64.

# %%
with torch.no_grad():
    exact = copy.deepcopy(model).double()(x[test].double())
    off = {"as trained": model(x[test]), "folded": folded(x[test])}
off = {name: (scores - exact).abs().max().item() for name, scores in off.items()}
print(
    {name: f"{value:.0e}" for name, value in off.items()},
    f"of scores up to {exact.abs().max():.0f}",
)
assert off["folded"] < 4 * off["as trained"]

# %% [markdown]
# ## ONNX
#
# The first axis, the number of images, is to be free, which `Dim.DYNAMIC` says. A file is written
# under another name first and then renamed: a server that looks for it never reads half of one.

# %%
folder = TemporaryDirectory()
any_number = ({0: torch.export.Dim.DYNAMIC},)
logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it would say that torchvision is missing
operations = {}
for name, network in (("as trained", model), ("folded", folded)):
    path = Path(folder.name) / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about torch
        program = torch.onnx.export(
            network,
            (x[:2],),
            dynamo=True,
            dynamic_shapes=any_number,
            input_names=["images"],
            verbose=False,
        )
    program.save(path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    operations[name] = [node.op_type for node in onnx.load(path).graph.node]
    print(f"{name}: {' '.join(operations[name])}")
assert operations["as trained"].count("BatchNormalization") == 2
assert "BatchNormalization" not in operations["folded"]

# %% [markdown]
# The exporter has folded what stands behind a layer by itself. What stands in front of one it has
# left; `bn.fold` has not.
#
# Now ONNX Runtime, which knows nothing of PyTorch, on all test images and on one:

# %%
session = onnxruntime.InferenceSession(Path(folder.name) / "folded.onnx")
scores = torch.from_numpy(session.run(None, {"images": x[test].numpy()})[0])
one = torch.from_numpy(session.run(None, {"images": x[test][:1].numpy()})[0])
print(tuple(scores.shape), tuple(one.shape), f"off by {(scores - exact).abs().max():.0e}")
assert (scores - exact).abs().max() < 4 * off["as trained"]
assert torch.equal(scores.argmax(1), exact.argmax(1))

# %% [markdown]
# ## torch.export
#
# A program of `torch.export` runs wherever PyTorch is, without this library and without the code
# above. Load only those that you trust: unlike the file of ONNX, it is unpickled in part, and that
# can run code.
#
# It also keeps its example: of a slice like `x[:2]`, all the memory that it is a slice of, here
# every image we have. So we give it a copy.

# %%
path = Path(folder.name) / "folded.pt2"
program = torch.export.export(folded, (x[:2].clone(),), dynamic_shapes=any_number)
temporary = path.with_name("temporary.pt2")
torch.export.save(program, temporary)
temporary.replace(path)
loaded = torch.export.load(path)
names = [node.name for node in loaded.graph.nodes if node.op == "call_function"]
print(" ".join(names))
with torch.no_grad():
    scores = loaded.module()(x[test])
print(f"off by {(scores - exact).abs().max():.0e}")
assert not [name for name in names if "norm" in name]
assert (scores - exact).abs().max() < 4 * off["as trained"]

# %%
for path in sorted(Path(folder.name).iterdir()):
    print(f"{path.name:16} {path.stat().st_size / 1024:4.0f} KiB")
folder.cleanup()

# %% [markdown]
# ## What we saw
#
# - `bn.fold` took out all four normalizations, on either side of a layer; the exporter alone two
#   of them.
# - Scores of every form are as near to float64 as those of the network as trained.
# - The same from the command line: `batchnorm fold --model net.py:make --weights in.pt --out
#   out.pt2`.
