"""The example: two replicas under torchrun end with the network that one process trains."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .world import needs_gloo

PATH = Path(__file__).parents[2] / "examples" / "distributed_training.py"

pytestmark = [needs_gloo, pytest.mark.slow]


def load():
    spec = importlib.util.spec_from_file_location("distributed_training", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train_exactly():
    """The same in float64, from the same weights."""
    example = load()
    network, digits = example.network, example.digits
    example.network = lambda: network().double()
    example.digits = lambda: (digits()[0].double(), digits()[1])
    return example.train(1, 0, 1).state_dict()


def test_two_replicas_end_with_the_network_of_one_process(tmp_path):
    saved = tmp_path / "two.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(PATH), "--epochs", "1", "--save", str(saved)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "2 replicas: " in done.stdout
    exact, alone, two = train_exactly(), load().train(1, 0, 1).state_dict(), torch.load(saved)

    def error(state, name):
        size = exact[name].abs().max()
        return float((state[name].double() - exact[name]).abs().max() / size)

    names = [name for name in exact if exact[name].is_floating_point()]
    # What rounding does to training by one process, it may do to that by two, in another order.
    tolerance = 8 * max(error(alone, name) for name in names)
    assert tolerance < 1e-3
    for name in names:
        assert error(two, name) <= tolerance, name
    assert two["1.num_batches_tracked"] == exact["1.num_batches_tracked"] == 25


def test_the_shards_are_unequal():
    example = load()
    batch = torch.arange(60)
    parts = [example.shard(batch, rank, 2) for rank in range(2)]
    assert [len(part) for part in parts] == [40, 20]
    assert torch.equal(torch.cat(parts), batch)
