import pytest

from . import apart

# They are imported in processes of their own.
collect_ignore_glob = ["with_*.py"]


@pytest.fixture
def keras():
    return apart.keras()


@pytest.fixture
def tf_keras():
    return apart.tf_keras()


@pytest.fixture
def jax():
    return apart.jax()
