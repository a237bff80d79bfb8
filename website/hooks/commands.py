"""Write what the commands say of themselves where a page has `<!-- command: NAME -->`."""

import re
from collections.abc import Iterable
from typing import Any

from typer.main import get_command

from batchnorm.cli import app

MARK = re.compile(r"^<!-- command: (\w+) -->$", re.MULTILINE)
COMMANDS = get_command(app).commands


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks in; this hook comes before the one that takes marks out."""
    return MARK.sub(lambda found: description(found[1]), markdown)


def description(name: str) -> str:
    """Describe a command as its `--help` does, in Markdown."""
    command = COMMANDS[name]
    parts = [paragraph(" ".join(part.split())) for part in command.help.split("\n\n")]
    for group in dict.fromkeys(option.rich_help_panel for option in command.params):
        options = [o for o in command.params if o.rich_help_panel == group and not o.hidden]
        parts += [f"**{group or 'Options'}**", table(options)]
    return "\n\n".join(parts)


def paragraph(text: str) -> str:
    """Write a paragraph of a help text; examples of commands become a block."""
    label, colon, commands = text.partition(": ")
    if colon and label in ("Example", "Examples"):
        return "\n".join(["```bash", *commands.split("; "), "```"])
    return escaped(text)


def table(options: Iterable[Any]) -> str:
    """List options, what they take, what they are, and their defaults."""
    rows = [f"| {called(o)} | {escaped(o.help or '')}{default(o)} |" for o in options]
    return "\n".join(["| | |", "|---|---|", *rows])


def called(option: Any) -> str:
    """Write an option as it is given; an argument has no name."""
    if not option.opts[0].startswith("-"):
        return f"`{option.metavar or option.name.upper()}`"
    value = "" if option.is_flag else f" {option.metavar or 'NUMBER'}"
    return f"`{'`, `'.join((*option.opts, *option.secondary_opts))}{value}`"


def default(option: Any) -> str:
    """Say which value an option has that is not given, where its help does not."""
    plain = isinstance(option.default, (int, float, str)) and not option.is_flag
    return f" Default: {option.default}." if plain else ""


def escaped(text: str) -> str:
    """Keep Markdown from seeing signs in words that were written for a terminal."""
    return re.sub(r"([*_<|\[\]])", r"\\\1", text)
