"""What every page is made with: its templates, the charts' program, and data inside the page."""

import functools
import json
from importlib.resources import files

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from . import wording


@functools.cache
def environment() -> Environment:
    """Give the templates, in which what a user wrote never becomes markup."""
    environment = Environment(
        loader=PackageLoader("batchnorm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["wording"] = wording
    return environment


@functools.cache
def vega() -> Markup:
    """Bundle Vega, Vega-Lite and Vega-Embed as one script that fetches nothing."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]
    return Markup(bundle.replace("</script", "<\\/script"))


def template_text(name: str) -> Markup:
    """Read a style sheet or a script, to stand in the page as it is."""
    return Markup((files(__package__) / "templates" / name).read_text(encoding="utf-8"))


def as_json(value: object) -> Markup:
    """Write JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
