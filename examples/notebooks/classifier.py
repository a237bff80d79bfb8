# %% [markdown]
# # A first network, without and with batch normalization
#
# This notebook trains a network to read handwritten digits. You need to know some Python, and
# nothing about neural networks. At the end you have a file with a network in it that is right in
# about 98 of 100 cases, and you know what batch normalization did for it.
#
# It runs in less than a minute on a laptop, and fetches nothing. Step through it with Shift+Enter.

# %%
import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import altair as alt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import batchnorm as bn

alt.renderers.enable("svg")
torch.set_num_threads(1)  # so small a network is faster so
torch.manual_seed(0)  # chance is the same each time

# %% [markdown]
# ## The data
#
# 1797 images of 8 × 8 pixels, and the digit that each shows. A pixel is a number from 0, white, to
# 1, black. This is one of them, as the computer has it:

# %%
found = load_digits()
images = torch.tensor(found.images, dtype=torch.float32) / 16
digits = torch.tensor(found.target)
print(images.shape, "and a", digits[5].item())
print(images[5].mul(9).round().int())

# %% [markdown]
# A network that has only learned its examples by heart is worth nothing. So we set 450 images
# aside, the *test set*, and never train on them.

# %%
order = torch.randperm(len(digits))
train, test = order[:1347], order[1347:]
x, y = images[train], digits[train]
test_x, test_y = images[test], digits[test]

# %% [markdown]
# ## The network
#
# A layer, `Linear(64, 64)`, turns 64 numbers into 64 others: each is a sum of all the inputs, each
# multiplied by a *weight*. A `ReLU` then sets what is negative to 0; without it, layers on top of
# each other would be worth no more than one. Four such pairs, and a last layer that gives ten
# numbers, a score for each digit. The highest score is the answer.


# %%
def network():
    layers = [nn.Flatten()]  # 8 × 8 pixels become 64 numbers
    for _ in range(4):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


plain = network()
print(sum(weight.numel() for weight in plain.parameters()), "weights")

# %% [markdown]
# The weights are random now, so it is right one time in ten, as anyone who guesses.


# %%
def accuracy(model):
    model.eval()  # we come to what this does
    with torch.no_grad():
        return (model(test_x).argmax(1) == test_y).float().mean().item()


print(f"{accuracy(plain):.1%}")
assert accuracy(plain) < 0.3

# %% [markdown]
# ## The training
#
# We show the network a *batch* of 64 images. `cross_entropy` says in one number, the *loss*, how
# wrong its scores are. `backward()` finds out for each weight whether the loss would fall if the
# weight were a little more or a little less, and the optimizer moves all of them a little that
# way. Then comes the next batch. Once through all images is an *epoch*.
#
# 1347 images make 21 batches of 64, and three are left over. We leave those out; at the end we
# shall see why.


# %%
def train_epoch(model, order):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in order.split(64):
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def learn(model, kind, epochs=8, keep=1344):
    torch.manual_seed(1)  # the same batches for everyone
    rows = []
    for epoch in range(epochs + 1):
        if epoch > 0:
            train_epoch(model, torch.randperm(1347)[:keep])
        rows.append({"network": kind, "epoch": epoch, "accuracy": accuracy(model)})
    return rows


untrained = copy.deepcopy(plain)
curve = learn(plain, "without")
print([f"{row['accuracy']:.0%}" for row in curve])

# %% [markdown]
# After eight epochs it is still guessing. One reason can be measured: what reaches the upper
# layers of a fresh network is small, and hardly different from one image to the next. The spread
# of the numbers over a batch, layer by layer, with the weights from before the training:


# %%
def spreads(model):
    spread, h = [], x[:64]
    for layer in model.train():
        h = layer(h)
        if isinstance(layer, nn.ReLU):
            spread.append(h.std(0).mean().item())
    return spread


with torch.no_grad():
    before = spreads(untrained)
print([f"{value:.3f}" for value in before])
assert before[-1] < before[0] / 4

# %% [markdown]
# ## Batch normalization
#
# *Batch normalization* is a layer that brings numbers to a standard size: of each of its 64 inputs
# it takes the mean and the variance over the images of the batch, subtracts the mean, and divides
# by the standard deviation. `bn.insert` puts one in front of each ReLU, and gives a new network
# with the same weights:

# %%
normalized = bn.insert(untrained)
print(normalized)
with torch.no_grad(), bn.no_update(normalized):
    after = spreads(normalized)
print([f"{value:.3f}" for value in after])
assert after[-1] > 0.5 * after[0]

# %% [markdown]
# The spread is the same in all layers now. What the first of them does, in numbers: 64 columns,
# each with mean 0 and standard deviation 1.

# %%
normalized.train()
with torch.no_grad(), bn.no_update(normalized):
    standard = normalized[:3](x[:64])
print(
    f"mean {standard.mean(0).abs().max():.0e}, deviation {standard.std(0, correction=0).mean():.3f}"
)
assert standard.mean(0).abs().max() < 1e-5
assert (standard.std(0, correction=0) - 1).abs().max() < 0.01

# %% [markdown]
# Now we train this network with the same batches and the same learning rate.

# %%
curve += learn(normalized, "with")
chart = (
    alt.Chart(alt.Data(values=curve))
    .mark_line(point=True)
    .encode(
        x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1)),
        y=alt.Y("accuracy:Q", axis=alt.Axis(format="%")),
        color=alt.Color("network:N", title=None),
    )
    .properties(width=420, height=240)
    .configure(background="white")
)
assert accuracy(normalized) > 0.95 > accuracy(plain) + 0.3
chart

# %% [markdown]
# The difference is large here, for four layers and this learning rate. It is smaller where there
# are fewer layers, or more epochs, or where each network gets the rate that suits it; `batchnorm
# study` measures that.
#
# ## Two modes
#
# In training, what the network says of one image depends a little on the other images in the
# batch, as their mean is subtracted. To somebody who asks about a single image that would be odd,
# and with a batch of one it could not be done. So the layer also keeps *running statistics*, an
# average over the latest batches, and normalizes by those once `model.eval()` has been called.
# `model.train()` goes back.

# %%
with torch.no_grad(), bn.no_update(normalized):
    normalized.train()
    in_two_batches = normalized(test_x[:64])[0], normalized(test_x[[0, *range(64, 127)]])[0]
    normalized.eval()
    alone, in_a_batch = normalized(test_x[:1])[0], normalized(test_x[:64])[0]
print(f"train: {(in_two_batches[0] - in_two_batches[1]).abs().max():.2f} apart in two batches")
print(f"eval:  {(alone - in_a_batch).abs().max():.0e} apart alone and in a batch")
assert (in_two_batches[0] - in_two_batches[1]).abs().max() > 0.1
assert torch.allclose(alone, in_a_batch, atol=1e-4)

# %% [markdown]
# ## What three images can do
#
# What if we had not left out the three images at the end of each epoch? They would have been a
# batch of their own, and counted in the running statistics as much as 64 do.

# %%
torch.manual_seed(0)
leftover = bn.insert(network())
swings = learn(leftover, "and a last batch of three", keep=1347)
print([f"{row['accuracy']:.0%}" for row in swings])
as_it_is = accuracy(leftover)
print(bn.recalibrate(leftover, x[:1344].split(64), progress=False))
print(f"{as_it_is:.1%}, with statistics measured anew {accuracy(leftover):.1%}")
assert accuracy(leftover) > as_it_is
assert min(row["accuracy"] for row in swings[2:]) < 0.9

# %% [markdown]
# `bn.recalibrate` has measured the running statistics anew, over all images at once. That helps;
# what it cannot mend are the weights, which three images have sent in a wrong direction each time.
# So: `drop_last=True`, if you use a `DataLoader`.
#
# ## Ready for use
#
# In evaluation mode batch normalization only multiplies and adds, with numbers that no longer
# change. So does the layer before it, and the two can be one. `bn.fold` does that; nothing of
# batch normalization is left, and the scores are the same up to rounding.

# %%
bn.recalibrate(normalized, x[:1344].split(64), progress=False)
folded, changes = bn.fold(normalized.eval(), test_x[:1])
print(changes)
print(folded)
with torch.no_grad():
    exact = copy.deepcopy(normalized).double()(test_x.double())
    rounding = (normalized(test_x) - exact).abs().max().item()
    error = (folded(test_x) - exact).abs().max().item()
print(f"rounding error before {rounding:.0e}, folded {error:.0e}")
assert error < 4 * rounding
assert not any(isinstance(layer, nn.BatchNorm1d) for layer in folded.modules())

# %% [markdown]
# We save the weights. The file is written under another name and then renamed, so that nobody
# finds half of it if the computer is switched off meanwhile. Who loads it makes the same network,
# folds it, and fills it; with `weights_only` nothing in the file can be executed.

# %%
with TemporaryDirectory() as folder:
    path = Path(folder) / "digits.pt"
    torch.save(folded.state_dict(), path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    print(f"{path.stat().st_size / 1024:.0f} KiB")

    loaded, _ = bn.fold(bn.insert(network()).eval(), test_x[:1])
    loaded.load_state_dict(torch.load(path, weights_only=True))
    loaded.eval()

with torch.no_grad():
    assert torch.equal(loaded(test_x), folded(test_x))
print(f"{accuracy(loaded):.1%} of digits it has never seen")
assert accuracy(loaded) > 0.95

# %% [markdown]
# ## What we saw
#
# - With batch normalization in front of each activation, a network learned in two epochs what it
#   had not begun to learn in eight.
# - It has two modes: `train()` normalizes by the batch, `eval()` by running statistics. Both must
#   see batches like the data that will come.
# - A batch of three is no batch. Statistics can be measured anew.
# - Afterwards it can be folded away.
