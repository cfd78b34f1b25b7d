"""Models that need nothing but NumPy, pickled by value with cloudpickle; some of them mean harm."""

# ruff: noqa: BLE001, D102, PTH101, PTH208
from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import cloudpickle

from adapters.runtimes.pickled import PickledRuntime
from adapters.runtimes.pickles.limits import Limits
from adapters.runtimes.pickles.scan import scanned
from gateway.core.models import Digest, Pickled, Runtime, Version
from gateway.core.tensors import Datatype, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("input", Datatype.FP64, (-1, 2)),), (TensorSpec("prediction", Datatype.FP64, (-1,)),))
TEXTS = Signature(SIGNATURE.inputs, (TensorSpec("prediction", Datatype.BYTES, (-1,)),))
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Sum:
    """Adds a row's numbers."""

    n_features_in_ = 2

    def predict(self, rows):
        return rows.sum(axis=1)


class Fitted(Sum):
    """Was fitted with named features."""

    n_features_in_ = 4
    feature_names_in_ = ("a", "b", "c", "d")


class Choosy(Sum):
    """Raises when any row's first number is 4."""

    def predict(self, rows):
        if (rows[:, 0] == 4).any():
            raise ValueError("no such row")
        return super().predict(rows)


class Wide(Sum):
    """Answers 20,000 numbers a row."""

    def predict(self, rows):
        return rows[:, :1].repeat(20_000, axis=1)


class Large(Sum):
    """Holds 50 MB that its pickle does not."""

    def __setstate__(self, state):
        self.held = b"x" * 50_000_000


class Where:
    """Says which process answers, after as many seconds as the row's first number."""

    n_features_in_ = 2

    def predict(self, rows):
        import os
        import time

        time.sleep(float(rows[0, 0]))
        return [float(os.getpid())] * len(rows)


class LargeWhere(Where, Large):
    """Says which process answers, and when, and holds 50 MB."""


class Doomed:
    """Ends its process by the row's first number: 1 exits, 2 segfaults, 3 takes memory until there is none, 4 raises."""

    n_features_in_ = 2

    def predict(self, rows):
        import ctypes
        import os

        match int(rows[0, 0]):
            case 1:
                os._exit(3)
            case 2:
                ctypes.string_at(0)
            case 3:
                held = []
                while True:
                    held.append(bytearray(b"x") * 2**24)
            case 4:
                raise ValueError("no such row")
        return [float(os.getpid())] * len(rows)


class Leaking:
    """Keeps 40 MB of each prediction."""

    n_features_in_ = 2

    def predict(self, rows):
        import os

        self.held = [*getattr(self, "held", []), b"x" * 40_000_000]
        return [float(os.getpid())] * len(rows)


class Fickle:
    """Answers whole numbers, or halves when a row's first number is 1, or numbers that need 40 bits when it is 2."""

    n_features_in_ = 2

    def predict(self, rows):
        import numpy

        match int(rows[0, 0]):
            case 1:
                return rows.sum(axis=1) + 0.5
            case 2:
                return numpy.full(len(rows), 2**40)
        return numpy.arange(len(rows))


class Prying:
    """Tries what a pickle must not do and says what came of each attempt."""

    n_features_in_ = 2

    def __init__(self, outside: str) -> None:
        self.outside = outside

    def predict(self, rows):
        import ctypes
        import fcntl
        import os
        import socket
        import subprocess
        import tempfile
        from pathlib import Path

        libc = ctypes.CDLL(None, use_errno=True)

        def outlive():
            if libc.prctl(1, 0, 0, 0, 0):  # PR_SET_PDEATHSIG
                raise OSError(ctypes.get_errno(), "")

        attempts = {
            "read": lambda: Path(self.outside).read_text(),
            "passwords": lambda: Path("/etc/passwd").read_text(),
            "environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
            "write": lambda: Path(self.outside + ".new").write_text("x"),
            "list": lambda: os.listdir(str(Path(self.outside).parent)),
            "mode": lambda: os.chmod(self.outside, 0o777),
            "connect": lambda: socket.create_connection(("127.0.0.1", 9), 1),
            "unix": lambda: socket.socket(socket.AF_UNIX),
            "program": lambda: subprocess.run(["/bin/true"], check=True),
            "fork": os.fork,
            "signal": lambda: os.kill(os.getppid(), 0),
            "unseen memory": lambda: os.memfd_create("x"),
            "larger pipe": lambda: fcntl.fcntl(os.pipe()[1], 1031, 2**20),  # F_SETPIPE_SZ
            "outliving": outlive,
            "own": lambda: Path(tempfile.gettempdir(), "kept").write_text("x"),
        }
        found = []
        for name, attempt in attempts.items():
            try:
                attempt()
                found.append(f"{name}: done")
            except BaseException as error:
                found.append(f"{name}: {type(error).__name__}")
        return [";".join(found)] * len(rows)


class Opens:
    """Opens a file, or a socket, as soon as it is unpickled."""

    def __init__(self, call, *arguments) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def limits(scratch: Path, **more: object) -> Limits:
    """Return limits that make a test short."""
    usual = {
        "confinement": "require",
        "scratch": scratch,
        "memory_bytes": 2**28,
        "cores": 1,
        "niceness": 0,
        "scratch_file_bytes_max": 2**20,
        "message_bytes_max": 2**24,
        "load_timeout_s": 120.0,
        "predict_timeout_s": 5.0,
    }
    return Limits(**(usual | more))


def runtime(scratch: Path, *, interpreters: tuple[str, ...] = (), **more: object) -> PickledRuntime:
    """Return a runtime under the tests' own Python."""
    return PickledRuntime(limits=limits(scratch, **more), interpreter=sys.executable, interpreters=interpreters)


def saved(path: Path, model: object, *, signature: Signature = SIGNATURE, **pickled: object) -> Version:
    """Write a pickle and return its version, with the imports that its scan finds."""
    path.write_bytes(cloudpickle.dumps(model))
    return version_of(path, signature=signature, **pickled)


def version_of(path: Path, *, signature: Signature = SIGNATURE, **pickled: object) -> Version:
    """Return the version of a file."""
    with path.open("rb") as file:
        imports, kind = scanned(file)
    digest = Digest(hashlib.sha256(path.read_bytes()).hexdigest())
    stated = Pickled(**({"method": "predict", "format": kind, "imports": tuple(imports)} | pickled))
    return Version("m", "1", digest, path.stat().st_size, Runtime.PICKLED, "", signature, pickled=stated)
