"""Where errors get the name of the layer: once, at the functions that a user calls."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from ..errors import BatchNormError
from .given import named
from .state import State

P = ParamSpec("P")
R = TypeVar("R")


def names_layer(function: Callable[P, R]) -> Callable[P, R]:
    """Put `name=`, or the name of the record that is given, in front of every error."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BatchNormError as error:
            name = str(kwargs.get("name") or "")
            if not name and args and isinstance(args[0], State):
                name = args[0].name
            if name and not str(error).startswith(f"{name}: "):
                raise named(name, error) from error.__cause__
            raise

    return cast(Callable[P, R], call)
