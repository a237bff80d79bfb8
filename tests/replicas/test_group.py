"""What `sync=` may be, and what it is without replicas."""

import copy
import pickle

import pytest
import torch
from torch import distributed as dist

import batchnorm as bn
from batchnorm import distributed
from batchnorm.distributed.group import Held
from batchnorm.errors import OptionError, SyncError
from batchnorm.functional import batch_norm

from .world import needs_gloo

pytestmark = needs_gloo


@pytest.fixture
def alone():
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("sync", ["yes", 1, object()])
def test_what_is_no_group_is_refused(sync):
    with pytest.raises(OptionError, match="expected sync to be a bool or a"):
        bn.BatchNorm1d(2, sync=sync)
    layer = bn.BatchNorm1d(2)
    with pytest.raises(OptionError, match="expected sync"):
        layer.sync = sync
    with pytest.raises(OptionError, match="expected sync"):
        batch_norm(torch.zeros(2, 2), None, None, training=True, sync=sync)


def test_a_group_of_others_is_refused(alone):
    with pytest.raises(OptionError, match="a member of"):
        bn.BatchNorm1d(2, sync=dist.GroupMember.NON_GROUP_MEMBER)


def test_without_a_process_group_nothing_changes():
    x = torch.randn(4, 2)
    assert torch.equal(bn.BatchNorm1d(2, sync=True)(x), bn.BatchNorm1d(2)(x))
    assert distributed.replicas(True, distributed.Site("test")) is None


def test_a_group_of_one_is_none(alone):
    assert distributed.replicas(True, distributed.Site("test")) is None
    x = torch.randn(4, 2)
    assert torch.equal(bn.BatchNorm1d(2, sync=dist.group.WORLD)(x), bn.BatchNorm1d(2)(x))


def test_the_option_is_shown_and_kept():
    layer = bn.BatchNorm1d(2, sync=True)
    assert layer.sync is True
    assert "sync=True" in repr(layer)
    assert "sync" not in repr(bn.BatchNorm1d(2))
    assert layer.state_dict().keys() == bn.BatchNorm1d(2).state_dict().keys()
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert again.sync is True
    lazy = bn.LazyBatchNorm1d(sync=True)
    lazy(torch.randn(4, 2))
    assert lazy.sync is True


def test_a_group_survives_a_pickle_by_its_name(alone):
    group = dist.new_group([0])
    layer = bn.BatchNorm1d(2, sync=group)
    assert layer.sync is group
    assert copy.deepcopy(layer).sync is group
    again = pickle.loads(pickle.dumps(layer))
    again(torch.randn(4, 2))
    assert again.sync is group


def test_a_group_that_is_not_there_is_an_error(alone):
    layer = bn.BatchNorm1d(2)
    layer.sync = Held("of another day", [0, 1])
    with pytest.raises(SyncError, match=r"'of another day' of ranks \[0, 1\].*Set layer.sync"):
        layer(torch.randn(4, 2))
    layer.eval()(torch.randn(4, 2))
    layer.sync = False
    layer.train()(torch.randn(4, 2))
