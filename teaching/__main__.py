"""`python -m teaching`: see the package."""

import argparse
import sys
from collections.abc import Iterator

from batchnorm.records import write_text

from . import __doc__ as about
from .data import FOLDER, ROOT, save
from .figures import FOLDER as FIGURES
from .figures import drawings
from .fill import filled, misplaced, pages, stale
from .measure import MEASUREMENTS


def main(arguments: list[str] | None = None) -> int:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(
        prog="python -m teaching",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure", help="write docs/data/NAME.json")
    measure.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    commands.add_parser("figures", help="draw docs/figures, and write numbers into the pages")
    commands.add_parser("check", help="say what is not as the records are; exit code 1 then")
    given = parser.parse_args(arguments)
    if given.command == "measure":
        unknown = set(given.names) - set(MEASUREMENTS)
        if unknown:
            parser.error(
                f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(MEASUREMENTS)}"
            )
        return _measure(given.names or list(MEASUREMENTS))
    if given.command == "figures":
        return _figures()
    found = list(faults())
    print("\n".join(found) or "figures and numbers are as the records are")
    return 1 if found else 0


def faults() -> Iterator[str]:
    """Say which figures and numbers are not what the records give."""
    for drawing in drawings():
        path = FIGURES / f"{drawing.name}.svg"
        if not path.exists() or not path.read_text(encoding="utf-8").endswith(drawing.mark()):
            yield f"{path.relative_to(ROOT)}: drawn from something else; run: make teaching"
    for path in pages():
        text = path.read_text(encoding="utf-8")
        for fault in (*stale(text), *misplaced(text)):
            yield f"{path.relative_to(ROOT)}: {fault}"


def _measure(names: list[str]) -> int:
    for name in names:
        print(f"measuring {name}", file=sys.stderr)
        FOLDER.mkdir(exist_ok=True)
        save(name, MEASUREMENTS[name].SETTINGS, MEASUREMENTS[name].rows())
    return 0


def _figures() -> int:
    FIGURES.mkdir(exist_ok=True)
    for drawing in drawings():
        write_text(FIGURES / f"{drawing.name}.svg", drawing.document())
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if filled(text) != text:
            write_text(path, filled(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
