"""What a shared library of 64-bit Linux exports and needs: `readelf` is not on every machine."""

import struct
from pathlib import Path
from typing import NamedTuple

DYNAMIC, DYNAMIC_SYMBOLS, NEEDED = 6, 11, 1
"""Types of two sections, and of an entry in the first."""


class Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class Library:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        assert self._data[:6] == b"\x7fELF\x02\x01", "not 64 bits, little-endian"
        at, size, count = struct.unpack_from("<Q10xHH", self._data, 40)
        found = [struct.unpack_from("<2I4Q2I2Q", self._data, at + i * size) for i in range(count)]
        self._sections = [Section(*fields) for fields in found]

    @property
    def exports(self) -> set[str]:
        """Names that others can use."""
        (section,) = (s for s in self._sections if s.type == DYNAMIC_SYMBOLS)
        symbols = [struct.unpack_from("<IBBH", self._data, at) for at in self._entries(section)]
        return {self._name(section, name) for name, _, _, defined_in in symbols if defined_in}

    @property
    def needs(self) -> set[str]:
        """Other libraries that it is linked to."""
        (section,) = (s for s in self._sections if s.type == DYNAMIC)
        pairs = [struct.unpack_from("<QQ", self._data, at) for at in self._entries(section)]
        return {self._name(section, value) for tag, value in pairs if tag == NEEDED}

    def _entries(self, section: Section) -> range:
        return range(section.offset, section.offset + section.size, section.entry_size)

    def _name(self, section: Section, at: int) -> str:
        begin = self._sections[section.link].offset + at
        return self._data[begin : self._data.index(b"\0", begin)].decode()
