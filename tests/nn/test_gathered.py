"""What replicas have sent is remembered for a recomputation, and for that only."""

import copy

import pytest
import torch

from batchnorm.errors import SyncError
from batchnorm.nn.gathered import Gathered, _may_be_recomputed
from batchnorm.nn.recomputation import REMEMBERED


def test_a_forward_is_known_by_its_row_and_of_equal_ones_the_latest_comes_first():
    memory = Gathered()
    row = torch.tensor([1.0, torch.nan])
    for number in (1.0, 2.0):
        memory.record(row, torch.tensor([number]))
    memory.record(torch.zeros(2), torch.tensor([3.0]))
    assert [memory.recall(row.clone()).item() for _ in range(2)] == [2.0, 1.0]
    assert memory.recall(row).item() == 2.0  # another backward pass
    assert memory.recall(torch.zeros(2)).item() == 3.0
    assert memory.recall(torch.ones(2)) is None
    assert memory.recall(torch.zeros(2, dtype=torch.float64)) is None


def test_what_is_forgotten_is_an_error_and_no_second_collective():
    memory = Gathered()
    for number in range(REMEMBERED + 1):
        memory.record(torch.full((2,), float(number)), torch.zeros(1))
    assert memory.recall(torch.ones(2)) is not None
    with pytest.raises(SyncError, match=f"latest {REMEMBERED} forward passes"):
        memory.recall(torch.zeros(2))


def test_a_copy_remembers_nothing():
    memory = Gathered()
    memory.record(torch.zeros(2), torch.zeros(1))
    assert copy.deepcopy(memory).recall(torch.zeros(2)) is None


def test_memory_is_kept_only_where_a_checkpoint_may_be_around():
    assert not _may_be_recomputed()
    with torch.no_grad():
        assert _may_be_recomputed()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        assert _may_be_recomputed()
