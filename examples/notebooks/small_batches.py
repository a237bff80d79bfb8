# %% [markdown]
# # Small batches
#
# Large images and large networks leave room for only a few samples at a time. Batch normalization
# takes a mean and a variance of those few. What does that do, and which remedy helps?
#
# We keep everything else as it is: each step of the optimizer is of 32 digits, and only the
# *parts* in which they pass through the network differ, 4 at a time or all 32. Gradients of the
# parts are added up, so that without batch normalization both would be the same. What we expect:
# noise in training, and running statistics in evaluation that are not what training has used.

# %%
from contextlib import nullcontext

import altair as alt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import batchnorm as bn

alt.renderers.enable("svg")
torch.set_num_threads(1)
found = load_digits()
images = torch.tensor(found.images, dtype=torch.float32) / 16
digits = torch.tensor(found.target)
order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
train, test = order[:1344], order[1344:]

# %% [markdown]
# ## How noisy is a mean of few values?
#
# A mean of n independent values has a standard error of 1/√n of their standard deviation: half a
# deviation with 4 values. We measure it on one layer, over many parts.

# %%
torch.manual_seed(0)
layer = nn.Linear(64, 64)
with torch.no_grad():
    h = layer(images[train].flatten(1))
h = (h - h.mean(0)) / h.std(0)
rows = []
for n in (2, 4, 8, 16, 32):
    parts = h[torch.randint(len(h), (500, n))]  # 500 parts of n samples
    rows.append({"n": n, "measured": parts.mean(1).std(0).mean().item(), "theory": n**-0.5})
for row in rows:
    print(f"{row['n']:2} samples: mean off by {row['measured']:.3f}, 1/√n = {row['theory']:.3f}")
    assert abs(row["measured"] / row["theory"] - 1) < 0.1

# %% [markdown]
# ## Four ways
#
# - **plain**: each part is normalized by itself, and moves the running statistics;
# - **accumulated**: `with bn.accumulate(model)` around the parts: outputs are the same, and the
#   running statistics move once a step, by all 32 samples together;
# - **virtual**: `virtual_batch_size=4`: all 32 pass at once, and the layer cuts them into parts
#   itself;
# - **renormalized**: `renorm=bn.Renorm(3, 5, ...)`: each part is normalized by itself, and then
#   corrected towards the running statistics, by a factor of at most 3 and by at most 5 deviations.
#   It begins as plain batch normalization, until the running statistics are worth something.


# %%
def network(kind, size):
    epoch = 42 * 32 // size  # parts
    options = {
        "virtual": {"virtual_batch_size": size},
        "renormalized": {"renorm": bn.Renorm(3, 5, warmup_steps=epoch, ramp_steps=epoch)},
    }
    layers = [nn.Flatten()]
    for _ in range(2):
        norm = bn.BatchNorm1d(64, activation="relu", **options.get(kind, {}))
        layers += [nn.Linear(64, 64, bias=False), norm]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def learn(kind, size, seed, epochs=2):
    torch.manual_seed(seed)
    model = network(kind, size).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(epochs):
        for batch in train[torch.randperm(1344)].split(32):
            optimizer.zero_grad()
            with bn.accumulate(model) if kind == "accumulated" else nullcontext():
                for part in batch.split(32 if kind == "virtual" else size):
                    loss = F.cross_entropy(model(images[part]), digits[part], reduction="sum")
                    (loss / 32).backward()
            optimizer.step()
    return model


# %% [markdown]
# And two ways to count correct answers: in evaluation mode, and in training mode, where parts of
# the same size are normalized by themselves; `bn.no_update` keeps the count from moving anything.


# %%
def accuracies(model, size):
    x, y = images[test][:448], digits[test][:448]
    with torch.no_grad(), bn.no_update(model):
        evaluation = model.eval()(x)
        training = torch.cat([model.train()(part) for part in x.split(size)])
    return [(scores.argmax(1) == y).float().mean().item() for scores in (evaluation, training)]


kinds = ["plain", "accumulated", "virtual", "renormalized"]
rows = []
for kind in kinds:
    for size in (4, 16, 32):
        for seed in (0, 1):
            found = accuracies(learn(kind, size, seed), size)
            for mode, share in zip(("evaluation", "training"), found, strict=True):
                rows.append({"kind": kind, "size": size, "mode": mode, "accuracy": share})


def mean(kind, size, mode):
    wanted = {"kind": kind, "size": size, "mode": mode}
    found = [row["accuracy"] for row in rows if wanted.items() <= row.items()]
    return sum(found) / len(found)


for mode in ("evaluation", "training"):
    for kind in kinds:
        print(f"{mode:10}  {kind:12}", *(f"{mean(kind, size, mode):7.1%}" for size in (4, 16, 32)))

# %%
chart = (
    alt.Chart(alt.Data(values=rows))
    .mark_line(point=True)
    .encode(
        x=alt.X("size:O", title="samples in a part"),
        y=alt.Y("mean(accuracy):Q", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False)),
        color=alt.Color("kind:N", title=None, sort=kinds),
        strokeDash=alt.StrokeDash("kind:N", title=None, sort=kinds),
        column=alt.Column("mode:N", title=None),
    )
    .properties(width=220, height=200)
    .configure(background="white")
)
chart

# %% [markdown]
# With 32 samples the four are within a point or two of each other. With four, training mode is far
# behind evaluation in all but one: this is the noise of the parts, and evaluation, which does not
# have it, is another function than the one that was trained.

# %%
gap = {kind: mean(kind, 4, "evaluation") - mean(kind, 4, "training") for kind in kinds}
print({kind: f"{value:+.1%}" for kind, value in gap.items()})
assert min(gap["plain"], gap["accumulated"], gap["virtual"]) > 0.1
assert abs(gap["renormalized"]) < 0.02

# %% [markdown]
# ## What accumulation is for
#
# Plain and accumulated have the same training: outputs and gradients do not depend on the running
# statistics. But these differ: one step each, from the same weights.

# %%
models = {}
for kind in ("plain", "accumulated", "virtual"):
    torch.manual_seed(0)
    models[kind] = network(kind, 4).double().train()
    x = images[train[:32]].double()
    with bn.accumulate(models[kind]) if kind == "accumulated" else nullcontext():
        for part in x.split(32 if kind == "virtual" else 4):
            models[kind](part)
of_all = models["plain"][1](x.flatten(1)).var(0)  # of all 32 samples, in the first layer
for kind, model in models.items():
    layer = model[2]
    print(f"{kind:12} {layer.num_batches_tracked} updates, variance {layer.running_var[0]:.4f}")
expected = 0.9 * 1 + 0.1 * of_all
assert torch.allclose(models["accumulated"][2].running_var, expected)
assert torch.allclose(models["virtual"][2].running_var, expected)
assert not torch.allclose(models["plain"][2].running_var, expected, rtol=0.1)

# %% [markdown]
# Accumulated and virtual have moved a tenth of the way to the variance of all 32 samples, as a
# batch of 32 would. Plain has made eight steps of a tenth.
#
# ## What we saw
#
# - The noise of a mean of n samples is 1/√n, and training with four at a time has half a deviation
#   of it.
# - Evaluation then is better than training, and another function.
# - `bn.Renorm` made both modes agree, and was ahead with four samples. With 32 there was little to
#   gain.
# - `bn.accumulate` gives running statistics as of the whole batch; it does not change the
#   training.
# - `virtual_batch_size` is the same in one pass, for those who have the memory.
#
# `examples/small_batches.py` also has parts of 2, and more seeds.
