"""What a pickle imports, found without importing or calling anything.

The pickle machine of the standard library runs over the file with stand-ins: every global becomes an inert class that notes its
name, every call makes an inert object. Files of joblib are read through their compression, and its arrays, which lie raw between
the opcodes, are passed over by the sizes that they state. What cannot be followed to its end is refused.
The scan says what a pickle names; it does not say what that does. Confinement is what keeps it from harm.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import pickle
import re
import zlib
from typing import IO, Any

IMPORTS_MAX = 10_000
_JOBLIB_ARRAY = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_PIECE = 1 << 20  # read at once while passing over an array
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\xfd7zXZ", "lzma"), (b"\x5d\x00", "lzma"), (b"\x04\x22\x4d\x18", "lz4"))
_ITEMSIZE = re.compile(r"[<>|=]?[biufcmMSUVO?](\d*)")


class NotScannable(Exception):
    """The file cannot be followed to its end; the message says why."""


def scanned(file: IO[bytes]) -> tuple[list[str], str]:
    """Return every `module:name` that a pickle imports, sorted, and its format: `pickle` or `joblib`.

    Raises:
        NotScannable: it is no pickle, is cut short, or uses what a scan cannot follow.
    """
    stream, is_compressed = _decompressed(file)
    machine = _Machine(io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream)
    try:
        machine.load()
        has_more = bool(machine.file.read(1))
    except NotScannable:
        raise
    except RecursionError as error:
        raise NotScannable("it is nested too deeply") from error
    except Exception as error:  # a file of any bytes may break the machine in any way
        raise NotScannable(f"it is no pickle, or is cut short: {type(error).__name__}: {str(error)[:200]}") from error
    if has_more:
        raise NotScannable("bytes follow the end of the pickle")
    return sorted(machine.imports), "joblib" if is_compressed or machine.has_joblib_arrays else "pickle"


_PythonMachine: Any = pickle._Unpickler  # noqa: SLF001 - the machine in Python, whose steps can be met


class _Inert:
    """What stands for every object of every class: takes whatever the machine does to it and keeps only its state."""

    global_name: tuple[str, str] = ("", "")

    def __new__(cls, *args: Any, **_: Any) -> Any:
        made = object.__new__(cls)
        made.__dict__["arguments"] = args
        return made

    def __call__(self, *args: Any, **_: Any) -> Any:
        return _Inert(*args)

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take an item of a dictionary's subclass."""

    def append(self, item: Any) -> None:
        """Take an item of a list's subclass."""

    def extend(self, items: Any) -> None:
        """Take items of a list's subclass."""

    def add(self, item: Any) -> None:
        """Take an item of a set's subclass."""


class _Machine(_PythonMachine):  # type: ignore[misc]
    """The machine with stand-ins for every global."""

    dispatch = dict(_PythonMachine.dispatch)  # noqa: RUF012 - a table of the class, as its parent's

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.file = file
        self.imports: set[str] = set()
        self.has_joblib_arrays = False

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in, and note the name."""
        if not re.fullmatch(r"[\w.]{1,300}", module) or not re.fullmatch(r"[\w.<>]{1,300}", name):
            raise NotScannable("it imports a name that is none")
        self.imports.add(f"{module}:{name}")
        if len(self.imports) > IMPORTS_MAX:
            raise NotScannable(f"it imports over {IMPORTS_MAX:,} names")
        return type("_Named", (_Inert,), {"global_name": (module, name)})

    def get_extension(self, code: int) -> Any:  # noqa: ARG002
        """Refuse what only a registry of the running process could name."""
        raise NotScannable("it uses the extension registry")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002
        """Refuse what lies outside the file."""
        raise NotScannable("it refers to objects outside the file")

    def load_build(self) -> None:
        """Set a state, then pass over the raw array that follows when it was joblib's."""
        _PythonMachine.load_build(self)
        made = self.stack[-1]
        if isinstance(made, _Inert) and made.global_name == _JOBLIB_ARRAY:
            self.has_joblib_arrays = True
            self._pass_over(made.__dict__.get("state"))

    dispatch[pickle.BUILD[0]] = load_build

    def load_newobj(self) -> None:
        """Make an object of a class that may itself have been made by the pickle."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.append(kind(*arguments))

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        """Do the same with named arguments."""
        _, arguments, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(kind(*arguments))

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _pass_over(self, state: Any) -> None:
        shape, dtype = state["shape"], state["dtype"].__dict__["arguments"][0]
        if dtype.startswith("O"):
            inner = _Machine(self.file)
            inner.imports = self.imports
            inner.load()
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            self._skip(self._skip_one())
        found = _ITEMSIZE.fullmatch(dtype)
        if found is None:
            raise NotScannable(f"it holds an array of {dtype[:40]}")
        characters = 4 if "U" in dtype else 1
        self._skip(math.prod(map(int, shape)) * (int(found[1] or 1)) * characters)

    def _skip_one(self) -> int:
        return int(self.file.read(1)[0])

    def _skip(self, count: int) -> None:
        while count > 0:
            piece = self.file.read(min(count, _PIECE))
            if not piece:
                raise NotScannable("an array is cut short")
            count -= len(piece)


class _Zlib(io.RawIOBase):
    """A stream of zlib, as joblib writes it by default."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._inner = zlib.decompressobj()

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as one step goes; 0 at the end."""
        while not self._inner.eof:
            piece = self._inner.unconsumed_tail or self._file.read(65_536)
            found = self._inner.decompress(piece, len(buffer))
            if found:
                buffer[: len(found)] = found
                return len(found)
            if not piece:
                break
        return 0


def _decompressed(file: IO[bytes]) -> tuple[Any, bool]:
    start = file.read(8)
    file.seek(0)
    if start[:1] == b"\x78" and len(start) > 1 and int.from_bytes(start[:2], "big") % 31 == 0:
        return _Zlib(file), True
    kind = next((name for magic, name in _MAGIC if start.startswith(magic)), "")
    if kind == "lz4":
        raise NotScannable("it is compressed with lz4; save it with zlib, gzip, bz2 or xz")
    if kind == "gzip":
        return gzip.GzipFile(fileobj=file), True
    if kind == "bz2":
        return bz2.BZ2File(file), True
    if kind == "lzma":
        return lzma.LZMAFile(file), True
    return file, False
