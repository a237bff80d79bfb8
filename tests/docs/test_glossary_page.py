"""The glossary's words are those of the code, here and in the frameworks that are installed."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys

import pages
import pytest

import batchnorm as bn
from batchnorm.port.equinox import EQUINOX
from batchnorm.port.flax import FLAX
from batchnorm.port.haiku import HAIKU
from batchnorm.port.keras import KERAS
from batchnorm.port.onnx import ONNX

TEXT = pages.read("glossary.md")
SECTIONS = pages.sections(TEXT)


def table(first):
    """Rows of the table whose head begins with some word, by their first cell."""
    lines = TEXT[TEXT.index(first) :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


HEAD, _, *ROWS = table("| PyTorch, and here | Keras 3 |")
COLUMNS = {name: [row[i] for row in ROWS] for i, name in enumerate(HEAD)}
ARRAYS = ["`weight`", "`bias`", "`running_mean`", "`running_var`"]


def options(column):
    """Names of options in a column, with their defaults; without a value where none is shown."""
    cells = COLUMNS[column][len(ARRAYS) :]
    return dict(m for cell in cells for m in re.findall(r"`(\w+)(?:=([^`]+))?`", cell))


def test_every_word_is_its_anchor_and_leads_to_a_page():
    found = pages.anchors(TEXT)
    assert len(found) == len(set(found)) == len(SECTIONS) >= 30
    for anchor, (heading, body) in SECTIONS.items():
        assert anchor == heading.replace(" ", "-")
        assert re.search(r"\]\([a-z_/]+\.md", body), anchor
        assert len(body.split()) <= 60, anchor


def test_links_lead_somewhere():
    assert pages.broken_links("glossary.md", TEXT) == []


def test_the_last_section_is_next():
    assert re.findall(r"^## (.*)$", TEXT, re.MULTILINE)[-1] == "Next"


def test_arguments_of_the_layer_have_an_entry_or_a_row():
    signature = inspect.signature(bn.BatchNorm2d)
    said = options("PyTorch, and here")
    assert said
    for name, value in said.items():
        assert repr(signature.parameters[name].default) == value
    known = set(SECTIONS) | set(said) | {anchor.replace("-", "_") for anchor in SECTIONS}
    for name in ("num_features", "eps", "momentum", "affine", "bias", "sync", "renorm"):
        assert name in signature.parameters
        assert name in known
    assert set(bn.BatchNorm2d(1).state_dict()) <= known


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("Keras 3", KERAS),
        ("Flax linen, nnx", FLAX),
        ("Haiku", HAIKU),
        ("Equinox", EQUINOX),
        ("ONNX", ONNX),
    ],
)
def test_arrays_and_options_are_those_that_are_ported(column, kind):
    assert COLUMNS["PyTorch, and here"][: len(ARRAYS)] == ARRAYS
    names = (kind.scale, kind.offset, kind.mean, kind.var)
    said = COLUMNS[column][: len(ARRAYS)]
    assert said == [f"`{name.removesuffix(' average')}`" for name in names]
    if kind is not ONNX:  # has no options for it: both are inputs
        assert {kind.scale_option, kind.offset_option} <= set(options(column))


KERAS_OPTIONS = """
import keras
layer = keras.layers.BatchNormalization
found = {"Keras 3": [layer.__init__, layer.call]}
"""

JAX_OPTIONS = """
import equinox, haiku, flax.linen, flax.nnx
found = {
    "Flax linen, nnx": [flax.linen.BatchNorm.__init__, flax.linen.BatchNorm.__call__],
    "Haiku": [haiku.BatchNorm.__init__, haiku.BatchNorm.__call__],
    "Equinox": [equinox.nn.BatchNorm.__init__, equinox.nn.BatchNorm.__call__],
    "nnx": [flax.nnx.BatchNorm.__init__, flax.nnx.BatchNorm.__call__],
}
"""

PRINTED = """
import inspect, json
known = {
    name: {
        p.name: "" if p.default is p.empty else repr(p.default)
        for function in reversed(functions)
        for p in inspect.signature(function).parameters.values()
    }
    for name, functions in found.items()
}
print(json.dumps(known))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "needs"),
    [(KERAS_OPTIONS, ["keras"]), (JAX_OPTIONS, ["jax", "flax", "haiku", "equinox"])],
    ids=["keras", "jax"],
)
def test_options_are_those_of_the_installed_frameworks(code, needs):
    if any(importlib.util.find_spec(name) is None for name in needs):
        pytest.skip(f"needs {', '.join(needs)}, which is not installed")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + PRINTED],
        env={**environment, "KERAS_HOME": os.devnull},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    known = json.loads(done.stdout.splitlines()[-1])
    for column, parameters in known.items():
        said = options("Flax linen, nnx" if column == "nnx" else column)
        assert len(said) >= 5
        for name, value in said.items():
            assert name in parameters, (column, name)
            # A value that is shown is the default; one that has to be given is not shown.
            assert not value or parameters[name] == value, (column, name)


def test_onnx_is_as_its_schema_has_it():
    onnx = pytest.importorskip("onnx")
    schema = onnx.defs.get_schema("BatchNormalization")
    assert [i.name for i in schema.inputs][1:] == [c.strip("`") for c in COLUMNS["ONNX"][:4]]
    said = options("ONNX")
    assert set(said) == set(schema.attributes)
    for name, value in said.items():
        default = onnx.helper.get_attribute_value(schema.attributes[name].default_value)
        assert default == pytest.approx(float(value), rel=1e-6)
