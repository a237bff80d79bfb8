"""Whom to judge: ours on each of its routes; torch's own first, to know what a judge is worth."""

import pytest

from batchnorm.functional import batch_norm
from cases import ROUTES, take_route

from .samples import OP


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    """Compute as for small, large and foreign tensors."""
    take_route(monkeypatch, request.param)
    return request.param


@pytest.fixture(params=["torch", *ROUTES])
def candidate(request, monkeypatch):
    """A functional: torch's, then ours on each route."""
    if request.param == "torch":
        return OP.op
    take_route(monkeypatch, request.param)
    return batch_norm
