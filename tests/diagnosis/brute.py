"""Every quantity once more, by its definition alone: loops, plain torch in float64, no hooks.

The network is linear enough to be written out: normalization, ReLU, linear, normalization, ReLU.
"""

import copy
import math

import torch

EPS = 1e-5


def normalize(x, mean, var, weight, bias):
    """The textbook, for (N, C, *S)."""
    shape = (1, -1, *(1,) * (x.dim() - 2))
    scale = weight / torch.sqrt(var + EPS)
    return (x - mean.view(shape)) * scale.view(shape) + bias.view(shape)


def batch_statistics(x):
    values = x.transpose(0, 1).reshape(x.shape[1], -1)
    mean = values.sum(1) / values.shape[1]
    return mean, ((values - mean[:, None]) ** 2).sum(1) / values.shape[1]


class Twin:
    """A network of two normalizations, run by hand.

    Args:
        model: `nn.Sequential(bn0, relu, conv or linear, bn1, relu, head)`, where the head is a
            function of the tensor.
    """

    def __init__(self, model):
        self.model = copy.deepcopy(model).double().eval()

    def run(self, x, statistics=None):
        """Give inputs and outputs of both layers, and the output of the network.

        Args:
            x: Input, float64.
            statistics: (mean, var) of both layers; None for those of the batch.
        """
        first, _, middle, second, _, *head = self.model
        seen = []
        for layer, after in ((first, middle), (second, None)):
            mean, var = batch_statistics(x) if statistics is None else statistics[len(seen)]
            y = normalize(x, mean, var, layer.weight, layer.bias)
            seen.append((x, y))
            x = torch.clamp(y, min=0)
            x = x if after is None else after(x)
        for module in head:
            x = module(x)
        return seen, x

    def running(self):
        return [(m.running_mean, m.running_var) for m in (self.model[0], self.model[3])]


def flat(batches, layer):
    """All values of each channel of what a layer is given, over all batches."""
    inputs = [seen[layer][0] for seen, _ in batches]
    return torch.cat([x.transpose(0, 1).reshape(x.shape[1], -1) for x in inputs], 1)


def rms(values):
    values = list(values)
    return math.sqrt(sum(v * v for v in values) / len(values))


def mean_error(layer, values):
    errors = []
    for c, channel in enumerate(values):
        spread = math.sqrt(float(channel.var()) + EPS)
        errors.append((float(layer.running_mean[c]) - float(channel.mean())) / spread)
    return rms(errors)


def log_std_error(layer, values):
    return rms(
        0.5 * math.log((float(layer.running_var[c]) + EPS) / (float(channel.var()) + EPS))
        for c, channel in enumerate(values)
    )


def effective_batch(inputs):
    """N σ² / s²_m, with both variances within the batches, pooled."""
    found = []
    for c in range(inputs[0].shape[1]):
        values = means = free_values = free_means = 0.0
        for x in inputs:
            channel = x[:, c].reshape(len(x), -1)
            of_samples = channel.mean(1)
            values += float(((channel - channel.mean()) ** 2).sum())
            means += float(((of_samples - of_samples.mean()) ** 2).sum())
            free_values += channel.numel() - 1
            free_means += len(x) - 1
        samples = sum(len(x) for x in inputs) / len(inputs)
        count = sum(x[:, c].numel() for x in inputs) / len(inputs)
        ratio = (values / free_values) / (means / free_means)
        found.append(min(samples * ratio, count))
    return float(torch.tensor(found).median())


def between_batch(inputs):
    found = []
    for c in range(inputs[0].shape[1]):
        groups = [x[:, c].reshape(len(x), -1).mean(1).tolist() for x in inputs]
        every = [m for group in groups for m in group]
        center = sum(every) / len(every)
        between = sum(len(g) * (sum(g) / len(g) - center) ** 2 for g in groups) / (len(groups) - 1)
        within = sum((m - sum(g) / len(g)) ** 2 for g in groups for m in g)
        found.append(between / (within / (len(every) - len(groups))))
    return float(torch.tensor(found, dtype=torch.float64).median())


def variance_within(inputs):
    """Of each channel, correction 0, averaged over the batches by their number of values."""
    total = sum(x[:, 0].numel() for x in inputs)
    return [
        sum(float(x[:, c].var(unbiased=False)) * x[:, c].numel() for x in inputs) / total
        for c in range(inputs[0].shape[1])
    ]


def gap(first, second):
    """√(Σ difference² / Σ deviation² from the mean of the output channel)."""
    first, second = torch.cat(first), torch.cat(second)
    spread = sum(float(((first[:, c] - first[:, c].mean()) ** 2).sum()) for c in range(2))
    return math.sqrt(float(((second - first) ** 2).sum()) / spread)
