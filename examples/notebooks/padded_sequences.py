# %% [markdown]
# # Padded sequences: what a mask is for
#
# Texts, sounds and visits have unequal lengths. To put them into one tensor, the short ones are
# filled up with zeros, the *padding*. A layer of batch normalization does not know which values
# are padding. It takes means and variances of all of them.
#
# We teach a small network to tell from the name of a country which language it is in, without a
# mask and with one, and look at what becomes of the statistics. What we expect: without the mask
# they are wrong, and what the network says of a name depends on how long the other names in the
# batch are. Will it read less well? Let us see.

# %%
from collections import Counter

import altair as alt
import torch
from babel import Locale
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import batchnorm as bn

alt.renderers.enable("svg")
torch.set_num_threads(1)
# %% [markdown]
# ## The names
#
# Babel, a library for programs in many languages, knows the countries of the world in all of them.
# We take ten languages, and of each the names that the nine others do not have.

# %%
languages = ["cs", "de", "es", "fi", "fr", "hu", "it", "nl", "pl", "tr"]
found = [
    (name.lower(), language)
    for language in languages
    for code, name in Locale(language).territories.items()
    if len(code) == 2  # countries; continents have numbers
]
count = Counter(name for name, _ in found)
found = sorted(pair for pair in found if count[pair[0]] == 1)
print(len(found), "names, such as", *[name for name, _ in found[100:900:200]], sep="\n  ")

# %% [markdown]
# Letters become numbers from 1 on; 0 is kept for padding.

# %%
alphabet = sorted({letter for name, _ in found for letter in name})
number = {letter: 1 + i for i, letter in enumerate(alphabet)}
names = [torch.tensor([number[letter] for letter in name]) for name, _ in found]
y = torch.tensor([languages.index(language) for _, language in found])
lengths = [len(name) for name in names]
chart = (
    alt.Chart(alt.Data(values=[{"letters": n} for n in lengths]))
    .mark_bar()
    .encode(x=alt.X("letters:Q", bin=alt.Bin(step=2)), y=alt.Y("count()", title="names"))
    .properties(width=420, height=160)
    .configure(background="white")
)
chart

# %%
batch = pad_sequence(names[:32], batch_first=True)
print(tuple(batch.shape), f"of which {(batch == 0).float().mean():.0%} is padding")
torch.manual_seed(0)
order = torch.randperm(len(names)).tolist()
train, test = order[:1100], order[1100:]

# %% [markdown]
# One long name is enough to make most of a batch empty.
#
# ## The network
#
# Each letter becomes 16 numbers, two convolutions look at three neighbors each, and the mean over
# the letters that are there goes to a last layer. The only difference between our two networks is
# `mask=`: True where there is a letter.


# %%
class Reader(nn.Module):
    def __init__(self, masked):
        super().__init__()
        self.masked = masked
        self.embed = nn.Embedding(len(alphabet) + 1, 16, padding_idx=0)
        self.conv1 = nn.Conv1d(16, 32, 3, padding=1, bias=False)
        self.norm1 = bn.BatchNorm1d(32, activation="relu")
        self.conv2 = nn.Conv1d(32, 32, 3, padding=1, bias=False)
        self.norm2 = bn.BatchNorm1d(32, activation="relu")
        self.head = nn.Linear(32, len(languages))

    def forward(self, letters):  # (N, L)
        there = letters != 0
        mask = there if self.masked else None
        h = self.norm1(self.conv1(self.embed(letters).mT), mask=mask)
        h = self.norm2(self.conv2(h), mask=mask)
        return self.head((h * there.unsqueeze(1)).sum(2) / there.sum(1, keepdim=True))


# %% [markdown]
# ## The statistics
#
# Before any training: we measure the statistics of the first layer over all names with
# `bn.recalibrate`, and beside them those of the letters alone, name by name, where no padding is.

# %%
torch.manual_seed(0)
fresh = Reader(masked=False)
with torch.no_grad():
    letters = torch.cat([fresh.conv1(fresh.embed(names[i]).T) for i in train], dim=1)
batches = [
    pad_sequence([names[i] for i in train[k : k + 32]], batch_first=True)
    for k in range(0, 1100, 32)
]
for masked in (False, True):
    fresh.masked = masked
    bn.recalibrate(fresh, batches, progress=False)
    off = ((fresh.norm1.running_mean - letters.mean(1)) / letters.std(1)).abs()
    ratio = (fresh.norm1.running_var.sqrt() / letters.std(1)).mean()
    print(
        f"mask {masked!s:5}  mean off by up to {off.max():.1e}, deviation {ratio:.2f} of the true"
    )
    assert (off.max() < 1e-5) == masked
    assert (abs(ratio - 1) < 1e-5) == masked

# %% [markdown]
# As expected: with the mask they are those of the letters, but for rounding. Without, the
# deviation is too small, as most values are the zeros of padding.
#
# ## The training


# %%
def learn(masked, epochs=8):
    torch.manual_seed(0)
    model = Reader(masked)
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    for _ in range(epochs):
        for i in torch.tensor(train)[torch.randperm(1100)[:1088]].split(32):
            letters = pad_sequence([names[k] for k in i], batch_first=True)
            optimizer.zero_grad()
            F.cross_entropy(model(letters), y[i]).backward()
            optimizer.step()
    bn.recalibrate(model, batches, progress=False)
    return model.eval()


models = {masked: learn(masked) for masked in (False, True)}

# %% [markdown]
# Now each test name twice: among all others, and by itself.

# %%
right, rows = y[test], []
with torch.no_grad():
    for masked, model in models.items():
        together = model(pad_sequence([names[i] for i in test], batch_first=True))
        alone = torch.cat([model(names[i].unsqueeze(0)) for i in test])
        for where, scores in (("in one batch", together), ("each alone", alone)):
            share = (scores.argmax(1) == right).float().mean().item()
            rows.append(
                {"mask": "mask" if masked else "no mask", "names": where, "accuracy": share}
            )
        apart = (together - alone).abs().max().item()
        print(f"mask {masked!s:5}  scores of the same name differ by up to {apart:.1e}")
        assert (apart < 1e-4) == masked
for row in rows:
    print(f"{row['mask']:7}  {row['names']:12}  {row['accuracy']:.1%}")

# %% [markdown]
# Without the mask, the same name gets other scores in other company, though `eval()` was called.
# That is worse than a point of accuracy: it is a network whose answers you cannot repeat.

# %%
name = "kolumbien"
i = [n for n, _ in found].index(name)
rows = []
with torch.no_grad():
    for masked, model in models.items():
        for width in range(len(name), 41, 2):
            scores = model(F.pad(names[i], (0, width - len(name))).unsqueeze(0)).softmax(1)
            share = scores[0, languages.index("de")].item()
            rows.append({"positions": width, "mask": "mask" if masked else "no mask", "p": share})
chart = (
    alt.Chart(alt.Data(values=rows))
    .mark_line(point=True)
    .encode(
        x=alt.X("positions:Q", title="positions that “kolumbien” is padded to"),
        y=alt.Y("p:Q", title="share of German in the answer", scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("mask:N", title=None),
    )
    .properties(width=420, height=200)
    .configure(background="white")
)
shares = {mask: [row["p"] for row in rows if row["mask"] == mask] for mask in ("mask", "no mask")}
assert max(shares["mask"]) - min(shares["mask"]) < 1e-5
assert max(shares["no mask"]) - min(shares["no mask"]) > 1e-3
chart

# %% [markdown]
# ## What we saw
#
# - Without a mask, statistics are those of data and padding together, and evaluation depends on
#   the padding.
# - `layer(x, mask=mask)` takes them of the data alone, exactly, in training, in `bn.recalibrate`
#   and in evaluation, where padding stays zero.
# - Accuracy in a batch says little here: the network learned to live with wrong statistics. One
#   training of each cannot decide which reads better; over five, in
#   `examples/padded_sequences.py`, it is the one with the mask, by less than seeds differ among
#   themselves.
