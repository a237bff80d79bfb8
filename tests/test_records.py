"""Records survive JSON, and files appear whole or not at all."""

import dataclasses
import errno
import json
import math
from pathlib import Path

import pytest

from batchnorm.records import Change, Effect, from_json, to_json, write_text


@dataclasses.dataclass(frozen=True)
class Inner:
    value: float | None
    many: tuple[float | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: tuple[Inner, ...]
    words: dict[str, str]
    maybe: Inner | None
    flag: bool = False


def test_nested_records_come_back_equal():
    outer = Outer((Inner(1.5), Inner(None, (0.1, None))), {"a": "<&>é"}, Inner(2.0), True)
    assert from_json(Outer, to_json(outer)) == outer


def test_what_is_not_finite_becomes_null():
    text = to_json(Inner(math.nan, (math.inf, -math.inf, 1.0)))
    assert json.loads(text) == {"value": None, "many": [None, None, 1.0]}
    assert from_json(Inner, text) == Inner(None, (None, None, 1.0))


def test_whole_numbers_of_a_float_field_come_back_as_floats():
    inner = from_json(Inner, '{"value": 1}')
    assert inner == Inner(1.0)
    assert type(inner.value) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "Outer: expected an object, found list"),
        ('{"inner": []}', r"missing fields \['words', 'maybe'\]"),
        ('{"inner": [], "words": {}, "maybe": null, "x": 1}', r"unknown fields \['x'\]"),
        ('{"inner": [{"value": "1"}], "words": {}, "maybe": null}', r"Outer\.inner\[0\]\.value"),
        ('{"inner": [], "words": {}, "maybe": null, "flag": 1}', r"Outer\.flag: expected"),
    ],
)
def test_a_wrong_record_says_where(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(Outer, text)


def test_a_change_prints_as_a_sentence():
    assert str(Change("", "insert x", "because")) == "(model): insert x (because)"


def test_effect_keeps_every_difference():
    effect = Effect("a", (0, 1), (0.5, None), 0.5, None, None, None, None, None, 1, "x", "y")
    assert from_json(Effect, to_json(effect)) == effect


def test_write_text_replaces_the_whole_file(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text(path, "old")
    real_write = Path.write_text

    def half(self, data, **kwargs):
        real_write(self, data[:1], **kwargs)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
