"""Records as JSON, and files that are never half written."""

import dataclasses
import json
import math
import os
import secrets
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(record: Any) -> str:
    """Write a record as JSON with sorted structure, null for what is not finite.

    Example:
        >>> from batchnorm.records import Change
        >>> to_json(Change("0", "insert BatchNorm1d(3)", "before ReLU"))
        '{"name":"0","action":"insert BatchNorm1d(3)","reason":"before ReLU"}'
    """
    return json.dumps(_finite(dataclasses.asdict(record)), allow_nan=False, separators=(",", ":"))


def from_json(kind: type[T], text: str) -> T:
    """Read a record of the given kind back from its JSON.

    Raises:
        ValueError: The text is not JSON, or lacks a field, or holds one of another kind.

    Example:
        >>> from batchnorm.records import Change
        >>> change = Change("0", "insert BatchNorm1d(3)", "before ReLU")
        >>> from_json(Change, to_json(change)) == change
        True
    """
    return typing.cast(T, _build(kind, json.loads(text), kind.__name__))


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: a reader never sees half of it."""
    # Two machines that share a folder may have processes of one number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _build(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_record(kind, value, where)
    if origin is types.UnionType:
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _build(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ValueError(f"{where}: expected {kind}, found {type(value).__name__}")


def _build_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {type(value).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    missing = [n for n, f in fields.items() if n not in value and f.default is dataclasses.MISSING]
    if missing or set(value) - set(fields):
        unknown = sorted(set(value) - set(fields))
        raise ValueError(f"{where}: missing fields {missing}, unknown fields {unknown}")
    return kind(**{n: _build(hints[n], item, f"{where}.{n}") for n, item in value.items()})
