"""The program that unpickles: the only file of the project that does, and it runs in processes that can do little else.

Started fresh, it is a fork server: it confines itself, imports what the version's pickle imports, and then forks one process per
order that comes over its control socket, so that an instance starts without importing anything. Each fork lowers its limits,
confines itself further and unpickles the artifact, which it gets as an open file; then it answers predictions over a socket of
its own until that closes. The fork server unpickles nothing, has no threads, and ends when its control socket closes; its forks
end with it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pickle
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Callable
from typing import IO, Any, NoReturn

import numpy as np

from . import confinement
from .convert import converted
from .facts import facts_of, name_of
from .framing import BLOB, JSON, TENSORS, Broken, Channel, TooLarge, json_parts, read_json, read_tensors, tensor_parts
from .scan import NotScannable, scanned

CONTROL_BYTES_MAX = 16 * 2**20  # an order names at most 10,000 imports
REASON_LENGTH_MAX = 500  # characters of a library's message
FILES_MAX = 256  # open at once
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
IMPORT_NICENESS = 10  # as the gateway's own loads have


class Refused(Exception):
    """The order cannot be carried out; the message is for people."""


def main() -> None:
    """Serve orders on the socket whose number is the last argument."""
    control = socket.socket(fileno=int(sys.argv[-1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; this ends with its parent
    warnings.simplefilter("ignore")
    settings = _receive(control)[0]
    try:
        ready = _prepared(settings)
    except Refused as error:
        _send(control, {"error": str(error)})
        return
    _send(control, ready)
    _serve(control, settings)


def _prepared(settings: dict[str, Any]) -> dict[str, Any]:
    """Confine this process and import the modules."""
    with open("/proc/self/statm", "rb", buffering=0) as sizes:  # noqa: PTH123 - opened now, read when nothing can be opened
        applied, missing = _confine(settings, settings["readable"], [settings["scratch"]], may_fork=True)
        began_s = time.monotonic()
        failed = _failed_imports(settings["modules"])
        sizes.seek(0)
        pages, resident, shared = map(int, sizes.read(200).split()[:3])
    settings["base_bytes"] = pages * resource.getpagesize()
    own_bytes = (resident - shared) * resource.getpagesize()
    settings["confined"], settings["missing"] = applied, missing
    gc.collect()
    gc.freeze()  # shared pages stay shared
    preload_ms = (time.monotonic() - began_s) * 1e3
    return {
        "confined": applied,
        "missing": missing,
        "preload_ms": preload_ms,
        "failed_imports": failed,
        "own_bytes": own_bytes,
    }


def _failed_imports(modules: list[str]) -> list[str]:
    """Import what can be in a thread that steps back for good, since nobody may step forward again; return what cannot."""
    failed: list[str] = []

    def work() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + IMPORT_NICENESS)
        failed.extend(name for name in modules if not _imports(name))

    importer = threading.Thread(target=work)
    importer.start()
    importer.join()  # forks are made by a process of one thread
    return failed


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except BaseException:  # noqa: BLE001 - whatever a module does; the fork that needs it says what is wrong
        return False
    return True


def _serve(control: socket.socket, settings: dict[str, Any]) -> None:
    while True:
        try:
            order, descriptors = _receive(control)
        except (Broken, OSError):
            return
        if "end" in order:
            _send(control, {"status": _ended(order["end"])})
            continue
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            control.close()
            _instance(parent, {**settings, **order}, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _send(control, {"pid": pid})


def _ended(pid: int) -> int:
    """Kill a fork and return how it ended; until now its number was kept, so that nobody else can have it."""
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _instance(parent: int, order: dict[str, Any], connection: int, artifact: int) -> NoReturn:
    """Be one instance; never returns."""
    channel = Channel(socket.socket(fileno=connection), order["bytes_max"])
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        _limit(order)
        _confine(order, order["readable"], [order["own_scratch"]], may_fork=False)
        with os.fdopen(artifact, "rb") as file:
            host = _Host(order, file)
        channel.send(JSON, json_parts(host.facts))
        _answer(channel, host)
    except Refused as error:
        _excuse(channel, str(error))
    except Broken:
        pass
    except BaseException as error:  # noqa: BLE001 - the pickle may raise anything, SystemExit too
        _excuse(channel, _reason(error))
    os._exit(0)


def _excuse(channel: Channel, reason: str) -> None:
    try:
        channel.send(JSON, json_parts({"error": reason[:REASON_LENGTH_MAX]}))
    except (Broken, TooLarge):
        os._exit(1)


def _limit(order: dict[str, Any]) -> None:
    memory = order["base_bytes"] + order["memory_bytes"]
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    size = order["scratch_file_bytes_max"]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))
    os.sched_setaffinity(0, order["cores"])
    os.nice(order["niceness"])
    os.chdir(order["own_scratch"])
    tempfile.tempdir = order["own_scratch"]
    for name in ("HOME", "TMPDIR", "JOBLIB_TEMP_FOLDER"):
        os.environ[name] = order["own_scratch"]


def _confine(
    settings: dict[str, Any], readable: list[str], writable: list[str], *, may_fork: bool
) -> tuple[list[str], list[str]]:
    """Apply what the kernel has; return what was applied and what is missing.

    Raises:
        Refused: something is missing, and the settings require it.
    """
    if settings["confinement"] == "off":
        return [], []
    applied, missing = [], []
    own = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    steps: tuple[Callable[[], str], ...] = (
        lambda: confinement.restrict_files([*confinement.READABLE, *own, *readable], writable),
        lambda: confinement.refuse_calls(may_fork=may_fork),
    )
    confinement.give_up_privileges()
    for step in steps:
        try:
            applied.append(step())
        except confinement.Missing as error:
            missing.append(str(error))
    if missing and settings["confinement"] == "require":
        raise Refused("this machine cannot confine a pickled model: it lacks " + " and ".join(missing))
    return applied, missing


class _Host:
    """The unpickled model."""

    def __init__(self, order: dict[str, Any], file: IO[bytes]) -> None:
        began_s = time.monotonic()
        try:
            imports, kind = (order["imports"], order["format"]) if order["format"] else scanned(file)
        except NotScannable as error:
            raise Refused(f"its imports cannot be scanned: {error}") from error
        file.seek(0)
        self._model = _unpickled(file, kind, frozenset(imports))
        self._method: Any = None
        self._names: list[str] = []
        self._is_frame = False
        self.facts = {
            **facts_of(self._model),
            "imports": imports,
            "format": kind,
            "confined": order["confined"],
            "missing": order["missing"],
            "load_ms": (time.monotonic() - began_s) * 1e3,
        }
        if order["plan"] is not None:
            self.follow(order["plan"])

    def follow(self, plan: dict[str, Any]) -> None:
        """Take on the method to call, the names of the inputs, and whether it gets them as a frame."""
        method = getattr(self._model, plan["method"], None)
        if not callable(method) or plan["method"].startswith("_"):
            raise Refused(f"the model, a {name_of(type(self._model))}, has no method {plan['method']!r}")
        self._method, self._names, self._is_frame = method, plan["names"], plan["is_frame"]

    def predict(self, arrays: list[Any]) -> list[Any]:
        """Return the answer as a list of one array."""
        return [_plain(self._method(self._rows(arrays)))]

    def convert(self, order: dict[str, Any]) -> bytes:
        """Return the model as ONNX."""
        return converted(self._model, order)

    def _rows(self, arrays: list[Any]) -> Any:
        if len(arrays) == 1 and not self._is_frame:
            return arrays[0] if arrays[0].dtype.kind != "O" else _texts(arrays[0])
        if len(arrays) == 1:
            columns = [arrays[0][:, at] for at in range(arrays[0].shape[1])]
        else:
            columns = [array.reshape(-1) for array in arrays]
        columns = [_texts(column) if column.dtype.kind == "O" else column for column in columns]
        if not self._is_frame:
            return np.column_stack(columns)
        import pandas  # only where the version's environment has it and the model wants it

        return pandas.DataFrame(dict(zip(self._names, columns)))  # noqa: B905 - as many, as the signature says


def _unpickled(file: IO[bytes], kind: str, imports: frozenset[str]) -> Any:
    """Return the object, importing nothing that the scan did not name."""

    def refuse_others(module: str, name: str) -> None:
        if f"{module}:{name}" not in imports:
            raise Refused(f"it imports {module}.{name}, which its scan does not name")

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            refuse_others(module, name)
            return super().find_class(module, name)

    if kind == "pickle":
        return Unpickler(file).load()

    import joblib.numpy_pickle as joblib_pickle

    class JoblibUnpickler(joblib_pickle.NumpyUnpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            refuse_others(module, name)
            return super().find_class(module, name)

    joblib_pickle.NumpyUnpickler = JoblibUnpickler
    inner = {**vars(pickle), "load": lambda stream, **_: Unpickler(stream).load()}  # of arrays of objects
    joblib_pickle.pickle = types.SimpleNamespace(**inner)
    return joblib_pickle.load(file)


def _answer(channel: Channel, host: _Host) -> None:
    """Answer until the other end hangs up, or memory has run out, after which nothing can be relied on."""
    while True:
        kind, body = channel.receive()
        try:
            if kind == TENSORS:
                channel.send(TENSORS, tensor_parts(host.predict(read_tensors(body))))
                continue
            order = read_json(body)
            if "convert" in order:
                channel.send(BLOB, [host.convert(order["convert"])])
            else:
                host.follow(order["plan"])
                channel.send(JSON, json_parts({}))
        except Broken:
            raise
        except MemoryError:
            _excuse(channel, "it ran out of memory")
            return
        except Exception as error:  # noqa: BLE001 - the model may raise anything
            _excuse(channel, str(error) if isinstance(error, (Refused, TooLarge)) else _reason(error))


def _plain(answer: Any) -> Any:
    """Return an answer as an array that the framing carries.

    Raises:
        TypeError: there is no such form.
    """
    array = np.asarray(answer)
    if array.dtype.kind in "US" or (array.dtype.kind == "O" and array.size):
        items = np.empty(array.shape, np.object_)
        items.reshape(-1)[:] = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
        return items
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _texts(array: Any) -> Any:
    texts = np.empty(array.shape, np.object_)
    texts.reshape(-1)[:] = [item.decode() for item in array.reshape(-1).tolist()]
    return texts


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, descriptors, _, _ = socket.recv_fds(control, 4, 2)
    if len(head) < 4:
        raise Broken("the parent is gone")
    length = int.from_bytes(head, "little")
    if length > CONTROL_BYTES_MAX:
        raise Broken("an order is over the bound")
    body = bytearray()
    while len(body) < length:
        piece = control.recv(length - len(body))
        if not piece:
            raise Broken("the parent is gone")
        body += piece
    return json.loads(bytes(body)), list(descriptors)


def _send(control: socket.socket, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    control.sendall(len(body).to_bytes(4, "little") + body)
