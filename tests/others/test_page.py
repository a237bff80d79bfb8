"""The page names every test, no other, and the versions they run at."""

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "others.md").read_text(encoding="utf-8")
TESTS = {
    name
    for path in Path(__file__).parent.glob("test_*.py")
    if path.name != Path(__file__).name
    for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}
NAMES = {
    "PyTorch": "torch",
    "fvcore": "fvcore",
    "Opacus": "opacus",
    "Keras": "keras",
    "Flax": "flax",
    "Haiku": "dm-haiku",
    "Equinox": "equinox",
}


def test_every_claim_has_its_test():
    assert set(re.findall(r"`(test_\w+)`", TEXT)) == TESTS
    rows = re.findall(r"^\|(?!---)(.*)\|$", TEXT, re.MULTILINE)
    claims = [row for row in rows if not row.startswith(" tool ")]
    assert len(claims) > 20
    for row in claims:
        assert "`test_" in row or row.endswith("the same "), row


def test_the_versions_are_those_that_are_tested():
    pinned = (ROOT / "constraints.txt").read_text()
    said = " ".join(TEXT.split("Run on", 1)[1].split("\n\n", 1)[0].split())
    for name, package in NAMES.items():
        (version,) = re.findall(rf"^{package}==(.*)$", pinned, re.MULTILINE)
        assert f"{name} {version}" in said, f"docs/others.md: {name} is {version} now"
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # its tests are skipped
        assert installed.split("+")[0] == version
