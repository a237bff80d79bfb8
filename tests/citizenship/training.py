"""Some steps of training, with everything that came out of them."""

import torch
from torch import nn

from .cases import batch, layer, loss, state


def network(options, *, dropout=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1),
        layer(options=options),
        nn.Dropout(0.5) if dropout else nn.Tanh(),
        nn.Conv2d(4, 4, 1),
        layer(options=options),
    )


def plainly(model, x):
    return model(x)


def train(model, way, *, steps=3, size="small"):
    """Train some steps; return every output, every gradient and the final state."""
    torch.manual_seed(1)
    found = {}
    dtype = next(iter(state(model).values())).dtype
    for step in range(steps):
        x = batch(size=size, seed=step, dtype=dtype).requires_grad_()
        y = way(model, x)
        loss(y).backward()
        found |= {f"output {step}": y.detach(), f"gradient of the input {step}": x.grad}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                found[f"gradient of {name} {step}"] = parameter.grad.clone()
                parameter -= 0.01 * parameter.grad
        model.zero_grad()
    return found | state(model)
