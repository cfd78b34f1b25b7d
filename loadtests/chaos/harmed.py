"""The gateway composed to be harmed: the same planes over a runtime that hangs or dies on marked rows, and a clock that steps.

A marked row harms only versions other than the first, so that a challenger can be broken beside a sound champion. Validation runs
in a process of its own with the real runtime, so such a version registers like any other.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import struct
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePath

from adapters.runtimes import onnx
from gateway.compose import parts, planes, start
from gateway.core.models import Version
from gateway.core.tensors import Array
from gateway.ports.runtimes import Instance
from gateway.settings import load_settings
from gateway.supervisor import supervise

PROGRAM = (sys.executable, "-m", "loadtests.chaos.harmed")
SOUND = "1"  # the version that no row harms
SEGFAULT, SEIZE, STICK = 666_001.0, 666_002.0, 666_003.0  # of a row's first number
CLOCK = "CHAOS_CLOCK"  # the variable that names the file with the clock's step


class HarmedRuntime:
    """ONNX Runtime, with instances that obey marked rows."""

    def __init__(self) -> None:
        self._runtime = _ONNX()

    def load(self, path: PurePath, version: Version) -> Instance:
        """Return an instance; the sound version's is as it is."""
        instance = self._runtime.load(path, version)
        return instance if version.version == SOUND else HarmedInstance(instance)


class HarmedInstance:
    """An instance that a row can break."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.concurrency = instance.concurrency
        self.provider = instance.provider
        self.runtime_version = instance.runtime_version
        self.close = instance.close

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Predict, or do what the first marked row wants."""
        marks = set(next(iter(inputs.values()))[:, 0].tolist())
        if SEGFAULT in marks:
            ctypes.string_at(0)  # reads address 0: SIGSEGV, as from a broken native operator
        if SEIZE in marks:
            while True:
                ctypes.PyDLL(None).pause()  # holds the interpreter lock, as native code that never returns does
        if STICK in marks:
            threading.Event().wait()  # never returns either, but other threads go on
        return self._instance.predict(inputs)


class SteppedClock:
    """The machine's clock plus the step in a file."""

    monotonic_s = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._file = os.open(os.environ[CLOCK], os.O_RDONLY)

    def now_s(self) -> float:
        """Return wall time."""
        step_s: float = struct.unpack("=d", os.pread(self._file, 8, 0))[0]
        return time.time() + step_s


def step_clock(path: Path, step_s: float) -> None:
    """Let every process of the gateway see wall time so far off, at once."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(struct.pack("=d", step_s))


_ONNX = onnx.OnnxRuntime


def main() -> int:
    """Run the gateway, or one plane of it."""
    onnx.OnnxRuntime = HarmedRuntime  # type: ignore[assignment, misc]
    if CLOCK in os.environ:
        for file in (parts, planes, start):
            file.SystemClock = SteppedClock  # type: ignore[assignment, misc]
    if sys.argv[1:2] == ["plane"]:
        return planes.run_plane(sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    options = {"data-dir": "data_dir", "host": "serving.host", "port": "serving.port"}
    options |= {"admin-port": "control.port", "workers": "serving.workers"}
    for option, setting in options.items():
        parser.add_argument(f"--{option}", dest=setting)
    asked = vars(parser.parse_args())
    del asked["serve"]
    return supervise(load_settings(None, os.environ, asked), program=PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
