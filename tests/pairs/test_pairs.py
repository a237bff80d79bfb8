import itertools
import re

import pytest

from batchnorm.errors import StatisticsError

from .case import Case
from .feature import Refused, relation
from .features import FEATURES
from .run import run
from .table import PATH, page

# What torch itself does when it compiles, and when it first meets forward mode.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{text}")
    for text in ("should not be instantiated", "torch.jit.script", "The .grad attribute")
]

ALONE = [(feature,) for feature in FEATURES]
PAIRS = list(itertools.combinations(FEATURES, 2))
TOGETHER = [pair for pair in PAIRS if relation(*pair) is None]
REFUSED = [pair for pair in PAIRS if isinstance(relation(*pair), Refused)]


# Faults that no two features show.
THREES = [
    tuple(feature for feature in FEATURES if feature.code in codes.split())
    for codes in (
        "silu resid mask",
        "silu resid large",
        "mom nan accum",
        "renorm nan ckpt",
        "virt weight onerun",
        "large late half",
        "noaff notrack lazy",
    )
]


def params(cases):
    return [
        pytest.param(
            Case(features),
            id="-".join(feature.code for feature in features),
            marks=[pytest.mark.slow] if any(feature.slow for feature in features) else [],
        )
        for features in cases
    ]


@pytest.mark.parametrize("case", params(ALONE + TOGETHER + THREES))
def test_layer_does_what_its_twin_does(case, monkeypatch):
    run(case, monkeypatch)


@pytest.mark.parametrize("case", params(REFUSED))
def test_pair_is_refused(case, monkeypatch):
    refused = relation(*case.features)
    with pytest.raises(refused.error, match=refused.match):
        run(case, monkeypatch)


@pytest.mark.parametrize("code", ["ckpt", "ckptre"])
def test_recomputing_an_ensemble_does_not_find_its_corrections(code, monkeypatch):
    features = tuple(feature for feature in FEATURES if feature.code in ("renorm", code, "vmap"))
    with pytest.raises(StatisticsError, match="renorm"):
        run(Case(features), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["ckpt", "ckptre"])
def test_checkpoint_around_a_compiled_layer(code, monkeypatch):
    features = tuple(feature for feature in FEATURES if feature.code in ("compile", code))
    run(Case(features, ("outer", "wrap")), monkeypatch)


def test_page_is_up_to_date():
    assert PATH.read_text(encoding="utf-8") == page(), "run `make pairs`"


def test_every_exception_names_a_feature_and_a_reason():
    codes = {feature.code for feature in FEATURES}
    assert len(codes) == len(FEATURES)
    for one, other in PAIRS:
        entry = relation(one, other)
        assert entry is None or entry.reason.strip()
    assert all(feature.apart.keys() <= codes - {feature.code} for feature in FEATURES)


def test_no_cell_of_the_page_is_empty():
    rows = [line for line in page().splitlines() if line.startswith("| **")]
    signs = [sign.strip() for row in rows for sign in row.strip("|").split("|")[1:]]
    assert len(signs) == len(FEATURES) ** 2
    assert all(re.fullmatch(r"✓|[✗–] \d+", sign) for sign in signs)
