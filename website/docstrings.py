"""Read docstrings as this project writes them: `Example:` holds sessions, as `Examples:` does."""

import re
from typing import Any

import griffe


class Sessions(griffe.Extension):
    """Without it, sessions would be shown as prose."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^Example(?=:)", "Examples", obj.docstring.value, flags=re.MULTILINE
            )
