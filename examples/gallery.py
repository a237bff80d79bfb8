"""Run the examples, draw their pictures, and quote what they print: `make gallery`.

    python examples/gallery.py [NAME ...]

What an example prints stands in its docstring, below "It prints:", and on docs/examples.md; its
picture is docs/examples/NAME.svg. All three are of the same run.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from files import write

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "examples.md"
NAMES = (
    "classifier",
    "fine_tuning",
    "small_batches",
    "padded_sequences",
    "gan",
    "domains",
    "export",
    "train_with_lightning",
    "train_with_trainer",
)
_IN_DOCSTRING = re.compile(r"(?<=\nIt prints:\n\n)(?: {4}.*\n|\n(?= {4}))+")


def on_page(name: str) -> re.Pattern[str]:
    """Find what the page says that an example prints."""
    return re.compile(rf"(?<=<!-- {name} prints -->\n```text\n).*?(?=```\n)", re.DOTALL)


def picture(name: str) -> Path:
    """Say where the picture of an example is."""
    return PAGE.with_suffix("") / f"{name}.svg"


def quoted(name: str) -> tuple[str, str]:
    """Give what docstring and page say that an example prints."""
    source, page = (path.read_text(encoding="utf-8") for path in (_script(name), PAGE))
    block = _IN_DOCSTRING.search(source)
    said = on_page(name).search(page)
    if block is None or said is None:
        raise ValueError(
            f"{name}: expected a place for what it prints in its docstring and on {PAGE}"
        )
    return re.sub(r"(?m)^ {4}", "", block[0]), said[0]


def renew(name: str) -> None:
    """Run an example and write down what came out."""
    command = [sys.executable, str(_script(name)), "--figure", str(picture(name))]
    print(f"{name} ...", file=sys.stderr)
    # One thread, so that two runs on one machine say the same.
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    block = re.sub(r"(?m)^(?=.)", "    ", done.stdout)
    _put(_script(name), _IN_DOCSTRING, block)
    _put(PAGE, on_page(name), done.stdout)


def _script(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.py")


def _put(path: Path, place: re.Pattern[str], text: str) -> None:
    old = path.read_text(encoding="utf-8")
    new, count = place.subn(lambda _: text, old, count=1)
    if not count:
        raise SystemExit(f"{path}: no place for what the example prints")
    write(path, lambda temporary: temporary.write_text(new, encoding="utf-8"))


if __name__ == "__main__":
    picture("").parent.mkdir(exist_ok=True)
    for wanted in sys.argv[1:] or NAMES:
        renew(wanted)
