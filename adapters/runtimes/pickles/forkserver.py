"""The parent's side of the processes that unpickle: fork servers, one per interpreter and set of imports, and their forks.

A fork server is our `host` program under the version's interpreter; it is started with nothing of this process but its end of a
socket. Orders go one at a time; a fork's number stays its own until `end` collects it, so that a kill never meets a stranger.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final

from adapters.runtimes.pickles.framing import (
    BLOB,
    JSON,
    TENSORS,
    Broken,
    Channel,
    Late,
    TooLarge,
    json_parts,
    read_json,
    read_tensors,
    tensor_parts,
)
from adapters.runtimes.pickles.limits import Limits
from gateway.core.errors import LoadFailed, PredictFailed
from gateway.core.fields import Json
from gateway.core.tensors import Array

_PROGRAM: Final = (  # our directory is on the path for these imports alone: a file there must not stand for a library
    "import sys; sys.path.insert(0, {directory!r}); from pickles import host; del sys.path[0]; host.main()"
)
_CONTROL_BYTES_MAX: Final = 2**20  # of what a fork server answers
_END_S: Final = 5.0  # for a fork server to collect a killed fork, or to end itself; both take about 1 ms
_SPENT_SHARE: Final = 0.75  # of what a fresh process may still take, after which one is replaced before a caller meets the bound
_CORES = itertools.count()
_NUMBERS = itertools.count()


class Died(Exception):
    """The process is gone; the message says how."""


class ForkServer:
    """One fork server. Safe to share between threads.

    Attributes:
        own_bytes: What it holds of the machine's memory after its imports, files that others share not counted.
    """

    def __init__(self, interpreter: str, modules: Sequence[str], limits: Limits, starter: Executor) -> None:
        """Start it and wait until it has imported the modules.

        Args:
            starter: Whose niceness it gets.

        Raises:
            LoadFailed: it does not start, or refuses.
        """
        self._limits = limits
        self._turn = threading.Lock()
        try:
            self._control, theirs = socket.socketpair()
        except OSError as error:
            raise LoadFailed(f"no process can be started for pickled models: {error.strerror}") from error
        directory = str(Path(__file__).parents[1])
        threads = str(limits.cores)
        try:
            self._process = starter.submit(
                subprocess.Popen,  # an interpreter that the settings name, and our program
                [interpreter, "-I", "-B", "-c", _PROGRAM.format(directory=directory), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={
                    "LC_ALL": "C.UTF-8",
                    "JOBLIB_MULTIPROCESSING": "0",  # there are no other processes in the confinement
                    **dict.fromkeys(
                        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), threads
                    ),
                },
            ).result()
        except OSError as error:
            self._control.close()
            raise LoadFailed(f"the interpreter {interpreter} does not start: {error.strerror}") from error
        finally:
            theirs.close()
        settings = {
            "confinement": limits.confinement,
            "scratch": str(limits.scratch),
            "readable": [],
            "modules": list(modules),
            "memory_bytes": limits.memory_bytes,
            "niceness": limits.niceness,
            "scratch_file_bytes_max": limits.scratch_file_bytes_max,
            "bytes_max": limits.message_bytes_max,
        }
        try:
            ready = self._ask(settings, within_s=limits.load_timeout_s)
        except Died as error:
            self.close()
            raise LoadFailed(f"the process for pickled models does not start under {interpreter}: {error}") from error
        if "error" in ready:
            self.close()
            raise LoadFailed(str(ready["error"]), hint="pickled.confinement = warn goes on without")
        self.preload_ms = float(str(ready["preload_ms"]))
        self.own_bytes = int(str(ready["own_bytes"]))

    @property
    def is_alive(self) -> bool:
        """Whether it can still fork."""
        return self._process.poll() is None

    def fork(self, artifact: int, order: Mapping[str, object]) -> Fork:
        """Return a new process that has unpickled the artifact.

        Args:
            artifact: Descriptor of the open file.
            order: `imports`, `format` and `plan`, see `host.py`.

        Raises:
            LoadFailed: it cannot be unpickled, or not in time, or there is no room for a process.
            Died: the fork server is gone.
        """
        deadline_s = time.monotonic() + self._limits.load_timeout_s
        try:
            fork = self._begun(artifact, order)
        except OSError as error:
            raise LoadFailed(f"no process can be started for it: {error.strerror}") from error
        try:
            fork.wait_until_loaded(deadline_s, self._limits.load_timeout_s)
        except BaseException:
            fork.end()
            raise
        return fork

    def _begun(self, artifact: int, order: Mapping[str, object]) -> Fork:
        if not self._limits.scratch.is_dir():
            self._limits.scratch.mkdir(mode=0o700, parents=True)
            self._process.kill()  # its confinement leaves it the directory that was there when it started
            self._process.wait()
            raise Died("its scratch directory was gone")
        scratch = Path(tempfile.mkdtemp(dir=self._limits.scratch))
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        try:
            cores = _cores(self._limits.cores)
            descriptor = os.open(f"/proc/self/fd/{artifact}", os.O_RDONLY)  # with a position of its own
            try:
                answer = self._ask(
                    {**order, "own_scratch": str(scratch), "cores": cores},
                    [theirs.fileno(), descriptor],
                    within_s=self._limits.load_timeout_s,
                )
            finally:
                os.close(descriptor)
        except BaseException:
            ours.close()
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        finally:
            theirs.close()
        return Fork(self, int(str(answer["pid"])), ours, scratch, self._limits.message_bytes_max)

    def end(self, pid: int) -> int | None:
        """Kill a fork and return its wait status; None when the fork server is gone, and with it the fork."""
        try:
            return int(str(self._ask({"end": pid}, within_s=_END_S)["status"]))
        except Died:
            return None

    def close(self) -> None:
        """End it and every fork."""
        self._control.close()
        try:
            self._process.wait(_END_S / 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, value: Mapping[str, object], descriptors: Sequence[int] = (), *, within_s: float) -> Json:
        body = json.dumps(value).encode()
        try:
            with self._turn:
                self._control.settimeout(within_s)
                socket.send_fds(self._control, [len(body).to_bytes(4, "little")], list(descriptors))
                self._control.sendall(body)
                length = int.from_bytes(self._exactly(4), "little")
                if length > _CONTROL_BYTES_MAX:
                    raise Died("the fork server answered too much")
                answer = json.loads(self._exactly(length))
        except TimeoutError as error:
            self._process.kill()  # its forks end with it
            raise Died(f"the fork server did not answer within {within_s:g} s") from error
        except (OSError, ValueError) as error:
            raise Died(f"the fork server is gone: {error}") from error
        assert isinstance(answer, dict)
        return answer

    def _exactly(self, length: int) -> bytes:
        body = b""
        while len(body) < length:
            piece = self._control.recv(length - len(body))
            if not piece:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_END_S)
                raise Died(f"the fork server ended with status {self._process.returncode}")
            body += piece
        return body


class Fork:
    """One process with one unpickled model; used by one thread at a time.

    Attributes:
        number: Of no other; its `pid` may become another's.
        loaded_bytes: What it held beyond its imports once it had unpickled the model.
    """

    def __init__(self, server: ForkServer, pid: int, connection: socket.socket, scratch: Path, bytes_max: int) -> None:
        self.pid = pid
        self.number = next(_NUMBERS)
        self.facts: dict[str, Any] = {}
        self.loaded_bytes = 0
        self._server = server
        self._channel = Channel(connection, bytes_max)
        self._scratch = scratch
        self._status: int | None = None
        self._is_ended = False

    def wait_until_loaded(self, deadline_s: float, timeout_s: float) -> None:
        """Read what the model says of itself.

        Raises:
            LoadFailed: it was not unpickled; the message says why.
        """
        try:
            kind, body = self._channel.receive(deadline_s)
            facts = read_json(body)
        except Late as error:
            raise LoadFailed(
                f"it was not unpickled within {timeout_s:g} s", hint="pickled.load_timeout_s is the bound"
            ) from error
        except Broken as error:
            self.end()
            raise LoadFailed(f"its process {self.ending()} while it was unpickled") from error
        if kind != JSON or not isinstance(facts, dict):
            raise LoadFailed("its process answered something else")
        if "error" in facts:
            raise LoadFailed(f"it cannot be unpickled: {facts['error']}")
        self.facts = facts
        self.loaded_bytes = self.held_bytes()

    def follow(self, plan: Mapping[str, object], deadline_s: float) -> None:
        """Say which method to call, and how.

        Raises:
            PredictFailed: there is no such method.
            Late, Broken: as of the channel.
        """
        self._channel.send(JSON, json_parts({"plan": dict(plan)}), deadline_s)
        self._reply(JSON, deadline_s)

    def predict(self, arrays: Sequence[Array], deadline_s: float) -> Array:
        """Return the method's answer.

        Raises:
            PredictFailed: the model raised, or the message is over its bound.
            Late, Broken: as of the channel; the process must be ended.
        """
        try:
            self._channel.send(TENSORS, tensor_parts(arrays), deadline_s)
        except TooLarge as error:
            raise PredictFailed(str(error)) from error
        return self.answer(deadline_s)

    def begin(self, arrays: Sequence[Array]) -> bool:
        """Ask for the method's answer; return whether the question was small enough to be sent at once. Never blocks.

        Raises:
            Broken: as of the channel; the process must be ended.
        """
        return self._channel.send_at_once(TENSORS, tensor_parts(arrays))

    def answer_at_once(self) -> Array | None:
        """Return the answer to `begin`, or None where `answer` has to be asked: it failed, is large, or has not come.

        Never blocks.

        Raises:
            Broken: it is no answer; the process must be ended.
        """
        body = self._channel.receive_at_once(TENSORS)
        return None if body is None else _one(body)

    def answer(self, deadline_s: float) -> Array:
        """Return the answer to `begin`; raises as `predict` does."""
        return _one(self._reply(TENSORS, deadline_s))

    def fileno(self) -> int:
        """Return the descriptor on which an answer comes."""
        return self._channel.fileno()

    def convert(self, order: Mapping[str, object], deadline_s: float) -> bytes:
        """Return the model as ONNX; raises as `predict` does."""
        self._channel.send(JSON, json_parts({"convert": dict(order)}), deadline_s)
        return bytes(self._reply(BLOB, deadline_s))

    def held_bytes(self) -> int:
        """Return what it holds of the machine's memory beyond what its imports take."""
        return max(self.own_bytes() - self._server.own_bytes, 0)

    def is_spent(self, memory_bytes: int) -> bool:
        """Return whether it has grown since it was loaded, so far that it must be expected to run out of memory."""
        return self.held_bytes() - self.loaded_bytes > max(memory_bytes - self.loaded_bytes, 0) * _SPENT_SHARE

    def own_bytes(self) -> int:
        """Return what it holds of the machine's memory, its imports included and shared files not; 0 when it is gone."""
        if self._is_ended:  # its number may be another's by now
            return 0
        try:
            _, resident, shared = Path(f"/proc/{self.pid}/statm").read_text().split()[:3]
            return (int(resident) - int(shared)) * os.sysconf("SC_PAGESIZE")
        except (OSError, IndexError, ValueError):
            return 0

    def is_alive(self) -> bool:
        """Return whether it still runs."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError, IndexError):
            return False
        except OSError:  # no descriptor is left to look with
            return True

    def end(self) -> None:
        """Kill it and remove what it wrote."""
        if self._is_ended:
            return
        self._is_ended = True
        self._channel.close()
        self._status = self._server.end(self.pid)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def ending(self) -> str:
        """Return how it ended, as the end of a sentence; only after `end`."""
        if self._status is None:
            return "ended with its fork server"
        if os.WIFSIGNALED(self._status):
            name = signal.Signals(os.WTERMSIG(self._status)).name
            return f"was killed by {name}" + (", most likely out of memory" if name == "SIGABRT" else "")
        return f"exited with status {os.WEXITSTATUS(self._status)}"

    def _reply(self, wanted: int, deadline_s: float) -> bytearray:
        kind, body = self._channel.receive(deadline_s)
        if kind == wanted == JSON or kind == JSON:
            answer = read_json(body)
            if isinstance(answer, dict) and "error" in answer:
                raise PredictFailed(str(answer["error"])[:1_000])
        if kind != wanted:
            raise Broken("an answer of another kind")
        return body


def _one(body: bytearray) -> Array:
    found = read_tensors(body)
    if len(found) != 1:
        raise Broken("an answer of more than one tensor")
    answer: Array = found[0]
    return answer


def _cores(count: int) -> list[int]:
    """Return the next cores in turn, so that instances spread over those this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    first = next(_CORES)
    return [usable[(first + at) % len(usable)] for at in range(min(count, len(usable)))]
