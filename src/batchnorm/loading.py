"""Find the callable that a user names as `path/to/file.py:name` or `package.module:name`."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import InspectLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .errors import UsageError

_PROVIDED: dict[str, bytes] = {}


def load(spec: str, option: str) -> Callable[..., Any]:
    """Import the callable that `spec` names.

    The user's file is executed: it is their own code, named by themselves.

    Args:
        spec: "path/to/file.py:callable" or "package.module:callable".
        option: The option it came from, for messages: "--model".

    Returns:
        The callable.

    Raises:
        UsageError: No such file, module or name, or the name is not callable, or the file raises.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UsageError(
            f"{option} {spec!r}: expected path/to/file.py:callable or package.module:callable"
        )
    module = _import(place, spec, option)
    if not hasattr(module, name):
        own = {n: v for n, v in vars(module).items() if callable(v) and n[0] != "_"}
        found = sorted(n for n, v in own.items() if getattr(v, "__module__", "") == module.__name__)
        raise UsageError(
            f"{option} {spec!r}: {place} has no {name!r}; its callables are: "
            f"{', '.join(found) or 'none'}"
        )
    target = getattr(module, name)
    if not callable(target):
        raise UsageError(
            f"{option} {spec!r}: {name!r} is a {type(target).__name__}, expected a function"
        )
    return target  # type: ignore[no-any-return]  # anything callable


def fingerprint(spec: str) -> str:
    """Identify the source that `spec` names, so that changed code is not taken for the same study.

    Args:
        spec: A specification that `load` accepts.

    Returns:
        The SHA-256 of the source file, or of the specification where there is no such file.
    """
    place = spec.rpartition(":")[0]
    path = Path(place)
    if path.suffix != ".py":
        found = importlib.util.find_spec(place)
        path = Path(found.origin) if found and found.origin else path
    try:
        source = source_of(path)
    except FileNotFoundError:
        source = place.encode()
    return hashlib.sha256(source).hexdigest()[:16]


@contextmanager
def provided(files: Mapping[str, bytes]) -> Iterator[None]:
    """Let files be found, inside the block, that need not be on this machine.

    Args:
        files: Their contents by the path that a specification names.
    """
    before = dict(_PROVIDED)
    _PROVIDED.update(files)
    try:
        yield
    finally:
        _PROVIDED.clear()
        _PROVIDED.update(before)


def source_of(path: Path) -> bytes:
    """The content of a file that a specification names.

    Raises:
        FileNotFoundError: There is none.
    """
    sent = _PROVIDED.get(str(path))
    if sent is None and not path.is_file():
        raise FileNotFoundError(path)
    return path.read_bytes() if sent is None else sent


def _import(place: str, spec: str, option: str) -> ModuleType:
    try:
        return _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except FileNotFoundError:
        raise UsageError(
            f"{option} {spec!r}: there is no file {place!r} (looked in {Path.cwd()})"
        ) from None
    except Exception as error:
        raise UsageError(
            f"{option} {spec!r}: importing {place} raised {type(error).__name__}: {error}"
        ) from error


def _import_file(path: Path) -> ModuleType:
    source = source_of(path)
    resolved = path.resolve()
    identity = hashlib.sha256(str(resolved).encode() + b"\0" + source).hexdigest()
    name = f"batchnorm_user_{identity[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_loader(name, _Source(source, resolved), origin=str(resolved))
    module = importlib.util.module_from_spec(found)  # type: ignore[arg-type]  # there is a loader
    module.__file__ = str(resolved)
    # The file's neighbors must be importable from it, as when Python runs it as a script.
    if str(resolved.parent) not in sys.path:
        sys.path.insert(0, str(resolved.parent))
    sys.modules[name] = module
    try:
        module.__loader__.exec_module(module)  # type: ignore[union-attr]
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Source(InspectLoader):
    """Executes source text that need not be in a file."""

    def __init__(self, source: bytes, path: Path) -> None:
        self.source, self.path = source, path

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.source)

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.source, str(self.path))


def _import_module(place: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(place)
