"""A GAN calls its discriminator more than once: what becomes of the running statistics.

    python examples/gan.py

A generator learns to draw digits, a discriminator to tell drawn ones from real ones. Usually it
sees a real batch, a drawn one, and the drawn one again when the generator is trained; each call
normalizes its own batch and moves the running statistics. We train so, also with `bn.no_update`
around the third call, and with `bn.accumulate` around the other two; and then with real and drawn
digits together in one batch. Afterwards each discriminator is asked in evaluation mode.

It prints:

    real and drawn     lean  variance  real  drawn  distance
    apart              0.71      0.52   47%    57%      3.02
    apart, no_update   0.53      0.74   63%    43%      3.02
    apart, accumulate  0.50      1.00   62%    55%      3.02
    together           0.55      1.02   92%    90%      1.52

Means over seeds. "lean": where the running means lie between those of real digits, 0, and of drawn
ones, 1. "variance": the running one as a share of that of real and drawn digits together. "real",
"drawn": how many test digits and newly drawn ones are told right. "distance": from a drawn digit to
the nearest real one.

The first three rows are one and the same training, as the last column shows, with other statistics
left behind: only `accumulate` gives those of both kinds together, halfway, and with the difference
of their means in the variance. Even so evaluation, which normalizes both kinds alike, is not what
these discriminators were trained for; with both in one batch it is, and here the generator learns
better as well.
"""

from contextlib import nullcontext
from statistics import fmean
from typing import NamedTuple

import altair as alt
import torch
from pictures import INK
from shared import digits, run, show
from torch import Tensor, nn
from torch.nn import functional as F

import batchnorm as bn

NOISE, SIZE, STEPS = 16, 64, 250
APART, QUIET, POOLED, TOGETHER = WAYS = "apart", "apart, no_update", "apart, accumulate", "together"


class Run(NamedTuple):
    """What one training came to; the module's docstring says what the numbers are."""

    way: str
    seed: int
    lean: float
    variance: float
    real: float
    drawn: float
    distance: float
    images: Tensor


def generator() -> nn.Sequential:
    """Noise to 64 pixels."""
    layers: list[nn.Module] = []
    for width in (NOISE, 64):
        layers += [nn.Linear(width, 64, bias=False), bn.BatchNorm1d(64, activation="relu")]
    return nn.Sequential(*layers, nn.Linear(64, 64), nn.Sigmoid())


def discriminator() -> nn.Sequential:
    """64 pixels to a score, above 0 for real ones."""
    return nn.Sequential(
        nn.Linear(64, 64),
        nn.LeakyReLU(0.2),
        nn.Linear(64, 64, bias=False),
        bn.BatchNorm1d(64, activation="leaky_relu"),
        nn.Linear(64, 1),
    )


def judge(model: nn.Module, real: Tensor, drawn: Tensor, way: str) -> tuple[Tensor, Tensor]:
    """Score both batches, as one batch or as two."""
    if way == TOGETHER:
        scores = model(torch.cat([real, drawn]))
        return scores[: len(real)], scores[len(real) :]
    with bn.accumulate(model) if way == POOLED else nullcontext():
        return model(real), model(drawn)


def train(x: Tensor, way: str, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Train both by turns."""
    torch.manual_seed(seed)
    draw, tell = generator(), discriminator()
    optimizers = [torch.optim.Adam(m.parameters(), 1e-3, betas=(0.5, 0.99)) for m in (draw, tell)]
    for _ in range(STEPS):
        real, drawn = x[torch.randint(len(x), (SIZE,))], draw(torch.randn(SIZE, NOISE))
        scores = judge(tell, real, drawn.detach(), way)
        loss = -(F.logsigmoid(scores[0]).mean() + F.logsigmoid(-scores[1]).mean())
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        with nullcontext() if way == APART else bn.no_update(tell):
            score = judge(tell, real, drawn, way)[1] if way == TOGETHER else tell(drawn)
        optimizers[0].zero_grad()
        (-F.logsigmoid(score).mean()).backward()
        optimizers[0].step()
    return draw, tell


def measure(draw: nn.Module, tell: nn.Sequential, x: Tensor, test: Tensor) -> dict[str, float]:
    """Compare running statistics with those of both kinds, and let the discriminator decide."""
    norm = tell[3]
    with torch.no_grad(), bn.no_update(draw):
        drawn = draw(torch.randn(len(x), NOISE))
        kinds = tell[:3](x), tell[:3](drawn)
        new = draw(torch.randn(len(test), NOISE))
        tell.eval()
        right = tell(test) > 0, tell(new) < 0
    real, way = kinds[0].mean(0), kinds[1].mean(0) - kinds[0].mean(0)
    return {
        "lean": float(((norm.running_mean - real) * way).sum() / way.square().sum()),
        "variance": float((norm.running_var / torch.cat(kinds).var(0)).log().mean().exp()),
        "real": float(right[0].double().mean()),
        "drawn": float(right[1].double().mean()),
        "distance": float(torch.cdist(new, x).min(1).values.mean()),
    }


def main(seeds: int = 3) -> list[Run]:
    """Train in every way."""
    runs = []
    for way in WAYS:
        for seed in range(seeds):
            data = digits(seed)
            x, test = data.x.flatten(1), data.test_x.flatten(1)
            draw, tell = train(x, way, seed)
            found = measure(draw, tell, x, test)
            with torch.no_grad():
                images = draw.eval()(torch.randn(8, NOISE))
            runs.append(Run(way, seed, **found, images=images))
    rows = []
    for way in WAYS:
        mine = [run for run in runs if run.way == way]
        means = [fmean(getattr(run, name) for run in mine) for name in Run._fields[2:7]]
        form = "{:.2f}", "{:.2f}", "{:.0%}", "{:.0%}", "{:.2f}"
        rows.append([way, *(f.format(mean) for f, mean in zip(form, means, strict=True))])
    show(["real and drawn", *Run._fields[2:7]], rows)
    return runs


def picture(runs: list[Run]) -> alt.Chart:
    """What the generators draw after so little training, beside real digits."""
    images = {"real": digits().x[:8].flatten(1)}
    images |= {run.way: run.images for run in runs if run.seed == 0}
    rows = [
        {"kind": kind, "x": 9 * k + i % 8, "y": i // 8, "ink": round(value, 2)}
        for kind in ("real", APART, TOGETHER)
        for k, image in enumerate(images[kind].tolist())
        for i, value in enumerate(image)
        if value > 0.1
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_rect(color=INK, aria=False)
        .encode(
            x=alt.X("x:O", axis=None, sort=list(range(72))),
            y=alt.Y("y:O", axis=None, sort=list(range(8))),
            opacity=alt.Opacity("ink:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0, 1])),
        )
    )
    rows_of = alt.Row("kind:N", title=None, sort=["real", APART, TOGETHER], header=_LEFT)
    return chart.properties(width={"step": 5}, height={"step": 5}).encode(row=rows_of)


_LEFT = alt.Header(labelAngle=0, labelAlign="left")

if __name__ == "__main__":
    run(main, picture)
