"""Pickled models, each in processes of its own; nothing is ever unpickled in this one.

An instance of the port is a small pool: `min` to `max` processes of one version, forked from a server that has imported what the
pickle imports. A process that hangs, dies or grows over its memory is killed and replaced, with growing pauses when that goes on;
the caller whose prediction it held gets `PredictFailed`, and serving lets another version answer. What the processes may do is
set in `pickles/`; the artifact is handed over as an open file whose bytes were hashed here, so that only what was registered is
unpickled.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Final

from adapters.runtimes.pickles.forkserver import Died, Fork, ForkServer
from adapters.runtimes.pickles.framing import Broken, Late
from adapters.runtimes.pickles.limits import Limits
from gateway.core.errors import LoadFailed, PredictFailed, ProcessDied
from gateway.core.models import Digest, Pickled, Version
from gateway.core.providers import CPU
from gateway.core.tensors import NUMPY_DTYPES, Array, Signature
from gateway.ports import Instance

_log = logging.getLogger(__name__)
_LOOK_S: Final = 1.0  # how often an instance looks at its idle processes' sizes
_IDLE_S: Final = 60.0  # after which one process above the least is given up
_CALM_S: Final = 60.0  # without a death, earlier ones are forgotten
_BACKOFF_S: Final = 0.1  # the second replacement's pause; the first has none
_BACKOFF_MAX_S: Final = 30.0  # serving tries a resting version as often
_NO_MODULES: Final = frozenset({"__main__", "__builtin__", "builtins"})


class PickledRuntime:
    """Loads pickles."""

    def __init__(self, *, limits: Limits, interpreter: str, interpreters: Sequence[str] = ()) -> None:
        """Make the scratch directory, empty.

        Args:
            interpreter: For versions that bring none.
            interpreters: What versions may bring.
        """
        self._limits = limits
        self._interpreter = interpreter
        self._interpreters = frozenset(interpreters)
        self._servers: dict[tuple[str, tuple[str, ...]], tuple[ForkServer, int]] = {}
        self._turn = threading.Lock()
        shutil.rmtree(limits.scratch, ignore_errors=True)
        limits.scratch.mkdir(mode=0o700, parents=True)

    def load(self, path: PurePath, version: Version) -> Instance:
        """Return an instance with its least number of processes running.

        Raises:
            LoadFailed: the bytes are not those registered, the interpreter is not allowed, or it cannot be unpickled.
        """
        if version.pickled is None:
            raise LoadFailed(f"version {version.version!r} was not registered as a pickled model")
        return PickledInstance(self, _opened(path, version.digest), version, version.pickled, self._limits)

    def opened(self, path: PurePath, digest: Digest, pickled: Pickled) -> Fork:
        """Return one process with the model unpickled and nothing said yet of how to call it: for validation.

        Raises:
            LoadFailed: as of `load`.
        """
        descriptor = _opened(path, digest)
        try:
            return self.acquire(pickled).fork(descriptor, {"imports": [], "format": "", "plan": None})
        except Died as error:
            raise LoadFailed(str(error)) from error
        finally:
            os.close(descriptor)

    def acquire(self, pickled: Pickled) -> ForkServer:
        """Return the fork server for a version's interpreter and imports, which others may share.

        Raises:
            LoadFailed: the interpreter is not allowed or does not start.
        """
        interpreter = pickled.interpreter or self._interpreter
        if pickled.interpreter and pickled.interpreter not in self._interpreters:
            raise LoadFailed(
                f"the interpreter {pickled.interpreter} is not among those allowed", hint="name it in pickled.interpreters"
            )
        key = (interpreter, modules_of(pickled))
        with self._turn:
            server, users = self._servers.get(key, (None, 0))
            if server is None or not server.is_alive:
                server, users = ForkServer(*key, self._limits), 0
            self._servers[key] = (server, users + 1)
            return server

    def release(self, server: ForkServer) -> None:
        """Give a fork server back; the last one ends it."""
        with self._turn:
            for key, (one, users) in list(self._servers.items()):
                if one is server:
                    if users > 1:
                        self._servers[key] = (one, users - 1)
                        return
                    del self._servers[key]
        server.close()


class PickledInstance:
    """The processes of one version. Safe to share between up to `concurrency` threads."""

    def __init__(self, runtime: PickledRuntime, artifact: int, version: Version, pickled: Pickled, limits: Limits) -> None:
        """Start the least number of processes; takes over the descriptor."""
        self._runtime = runtime
        self._artifact = artifact
        self._name = f"{version.model} {version.version}"
        self._pickled = pickled
        self._inputs = [spec.name for spec in version.signature.inputs]
        self._output = version.signature.outputs[0]
        self._limits = limits
        self._order = {
            "imports": list(pickled.imports),
            "format": pickled.format,
            "plan": plan_of(pickled, version.signature, [column.name for column in version.columns]),
        }
        self._changed = threading.Condition()
        self._free: list[Fork] = []
        self._alive = 0  # free or at work
        self._waiting = 0
        self._deaths = 0
        self._died_s = 0.0
        self._start_at_s = 0.0
        self._is_closed = False
        self._server: ForkServer | None = None
        try:
            for _ in range(pickled.instances_min):
                self._free.append(self._forked())
                self._alive += 1
        except BaseException:
            self._is_closed = True
            self._wind_up()
            raise
        self.runtime_version = str(self._free[0].facts.get("library", ""))[:200]
        threading.Thread(target=self._keep, name=f"pickled {self._name}", daemon=True).start()

    @property
    def provider(self) -> str:
        """What the model's own library does beside the processor is not known here."""
        return CPU

    @property
    def concurrency(self) -> int:
        """How many threads may be inside `predict` at once."""
        return self._pickled.instances_max

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the output by name.

        Raises:
            PredictFailed: the model raised, its process died or hung (`ProcessDied`), or none was free in time.
        """
        deadline_s = time.monotonic() + self._limits.predict_timeout_s
        fork = self._taken(deadline_s)
        try:
            answer = fork.predict([inputs[name] for name in self._inputs], deadline_s)
        except Late as error:
            self._lost(fork)
            raise ProcessDied(
                f"it did not answer within {self._limits.predict_timeout_s:g} s; its process was killed",
                hint="pickled.predict_timeout_s is the bound",
            ) from error
        except Broken as error:
            self._lost(fork)
            raise ProcessDied(f"its process {fork.ending()} while it predicted") from error
        except PredictFailed as error:
            if not fork.is_alive() or error.message.endswith("out of memory"):
                self._lost(fork)
                raise ProcessDied(error.message) from error
            self._give_back(fork)
            raise
        except BaseException:
            self._lost(fork)
            raise
        self._give_back(fork)
        return {self._output.name: answer.astype(NUMPY_DTYPES[self._output.datatype], copy=False)}

    def close(self) -> None:
        """Have the processes ended, in the thread that keeps them; those at work end with their answer."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _taken(self, deadline_s: float) -> Fork:
        with self._changed:
            self._waiting += 1
            try:
                while not self._free:
                    now_s = time.monotonic()
                    if self._is_closed:
                        raise PredictFailed("the instance was closed")
                    if self._alive == 0 and self._start_at_s > deadline_s:
                        pause_s = self._start_at_s - now_s
                        raise PredictFailed(f"its processes died {self._deaths} times; the next starts in {pause_s:.1f} s")
                    if now_s >= deadline_s:
                        raise PredictFailed(f"none of its processes was free within {self._limits.predict_timeout_s:g} s")
                    self._changed.notify_all()
                    self._changed.wait(deadline_s - now_s)
                return self._free.pop()  # the one used last: its caches are warm, and the others may idle
            finally:
                self._waiting -= 1

    def _give_back(self, fork: Fork) -> None:
        with self._changed:
            if not self._is_closed:
                self._free.append(fork)
                if self._waiting:
                    self._changed.notify_all()
                return
            self._alive -= 1
            is_last = self._alive == 0
        fork.end()
        if is_last:
            self._leave()

    def _lost(self, fork: Fork) -> None:
        """Kill a process and have it replaced."""
        fork.end()
        _log.error("a pickled model's process ended", extra={"action": "replace", "version": self._name, "reason": fork.ending()})
        with self._changed:
            self._alive -= 1
            self._note_death()
            self._changed.notify_all()
            is_last = self._is_closed and self._alive == 0
        if is_last:
            self._leave()

    def _note_death(self) -> None:
        now_s = time.monotonic()
        self._deaths = 1 if now_s - self._died_s > _CALM_S else self._deaths + 1
        self._died_s = now_s
        pause_s = 0.0 if self._deaths == 1 else min(_BACKOFF_S * 2 ** min(self._deaths - 2, 30), _BACKOFF_MAX_S)
        self._start_at_s = now_s + pause_s

    def _wind_up(self) -> None:
        with self._changed:
            free, self._free = self._free, []
            self._alive -= len(free)
            is_last = self._alive == 0
        for fork in free:
            fork.end()
        if is_last:
            self._leave()

    def _keep(self) -> None:
        """Start what is missing, end what is too large or idle; until closed."""
        busy_s = time.monotonic()
        while True:
            with self._changed:
                while not self._is_closed and not self._wants_more():
                    pause_s = self._start_at_s - time.monotonic()
                    if not self._changed.wait(pause_s if 0 < pause_s < _LOOK_S else _LOOK_S):
                        break
                is_closed, wants_more = self._is_closed, self._wants_more()
            if is_closed:
                return self._wind_up()
            now_s = time.monotonic()
            busy_s = now_s if self._waiting or not self._free else busy_s
            if wants_more:
                self._start()
            else:
                self._look(is_idle=now_s - busy_s > _IDLE_S)

    def _wants_more(self) -> bool:
        is_short = self._alive < self._pickled.instances_min or self._waiting > len(self._free)
        return is_short and self._alive < self._pickled.instances_max and time.monotonic() >= self._start_at_s

    def _start(self) -> None:
        try:
            fork = self._forked()
        except LoadFailed as error:
            _log.error("a process was not replaced", extra={"action": "replace", "version": self._name, "reason": str(error)})
            with self._changed:
                self._note_death()
                self._changed.notify_all()
            return
        with self._changed:
            self._alive += 1
        self._give_back(fork)

    def _look(self, *, is_idle: bool) -> None:
        """End one idle process that has grown over its memory, died, or is one too many."""
        with self._changed:
            found = next((fork for fork in self._free if fork.resident_bytes() > self._limits.memory_bytes), None)
            dead = found or next((fork for fork in self._free if not fork.is_alive()), None)
            spare = self._free[0] if is_idle and self._free and self._alive > self._pickled.instances_min else None
            chosen = dead or spare
            if chosen is None:
                return
            self._free.remove(chosen)
            self._alive -= 1 if dead is None else 0
        if dead is None:
            chosen.end()
        else:
            self._lost(chosen)

    def _forked(self) -> Fork:
        for _ in range(2):  # the fork server may have died since
            if self._server is None or not self._server.is_alive:
                self._leave()
                self._server = self._runtime.acquire(self._pickled)
            try:
                return self._server.fork(self._artifact, self._order)
            except Died as error:
                reason = str(error)
        raise LoadFailed(reason)

    def _leave(self) -> None:
        """Give the fork server back, and at the end the artifact."""
        server, self._server = self._server, None
        if server is not None:
            self._runtime.release(server)
        if self._is_closed and self._artifact >= 0:
            os.close(self._artifact)
            self._artifact = -1


def modules_of(pickled: Pickled) -> tuple[str, ...]:
    """Return what a version's fork server imports: every module that its pickle names."""
    found = {name.partition(":")[0] for name in pickled.imports} - _NO_MODULES
    found |= {"joblib"} if pickled.format == "joblib" else set()
    found |= {"pandas"} if pickled.is_frame else set()
    return tuple(sorted(found))


def plan_of(pickled: Pickled, signature: Signature, columns: Sequence[str]) -> dict[str, object]:
    """Return how the model is called: `host.py` reads it."""
    names = [spec.name for spec in signature.inputs] if len(signature.inputs) > 1 else list(columns)
    return {"method": pickled.method, "names": names, "is_frame": pickled.is_frame}


def _opened(path: PurePath, digest: Digest) -> int:
    """Return a descriptor of the artifact after hashing what it holds.

    Raises:
        LoadFailed: those are other bytes, or there is no such file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LoadFailed(f"the artifact cannot be opened: {error.strerror}") from error
    with os.fdopen(os.dup(descriptor), "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        os.close(descriptor)
        raise LoadFailed(f"the artifact has the digest {found}, and {digest} was registered")
    return descriptor
