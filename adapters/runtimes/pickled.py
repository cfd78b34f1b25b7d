"""Pickled models, each in processes of its own; nothing is ever unpickled in this one.

An instance of the port is a small pool: `min` to `max` processes of one version, forked from a server that has imported what the
pickle imports. A process that hangs, dies or grows over its memory is killed and replaced, with growing pauses when that goes on;
the caller whose prediction it held gets `PredictFailed`, and serving lets another version answer. What the processes may do is
set in `pickles/`; the artifact is handed over as an open file whose bytes were hashed here, so that only what was registered is
unpickled.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Final

from adapters.runtimes.pickles.answers import registered
from adapters.runtimes.pickles.deaths import Deaths
from adapters.runtimes.pickles.forkserver import Died, Fork, ForkServer
from adapters.runtimes.pickles.framing import Broken, Late
from adapters.runtimes.pickles.limits import Limits
from adapters.runtimes.pickles.orders import modules_of, open_artifact, plan_of
from adapters.runtimes.pickles.run import PickledRun
from gateway.core.errors import LoadFailed, PredictFailed, ProcessDied
from gateway.core.models import Digest, Pickled, Version
from gateway.core.providers import CPU
from gateway.core.tensors import Array
from gateway.ports.metrics import Cell
from gateway.ports.runtimes import Instance

_log = logging.getLogger(__name__)
_LOOK_S: Final = 1.0  # how often an instance looks at its idle processes' sizes
_IDLE_S: Final = 60.0  # after which one process above the least is given up


class PickledRuntime:
    """Loads pickles."""

    def __init__(
        self, *, limits: Limits, interpreter: str, interpreters: Sequence[str] = (), unexpected: Cell | None = None
    ) -> None:
        """Make the scratch directory, empty; models' processes get this thread's niceness and their own on top.

        Args:
            interpreter: For versions that bring none.
            interpreters: What versions may bring.
            unexpected: Counts what goes wrong without a name while processes are kept.
        """
        self.unexpected = unexpected
        self._limits = limits
        self._interpreter = interpreter
        self._interpreters = frozenset(interpreters)
        self._servers: dict[tuple[str, tuple[str, ...]], tuple[ForkServer, int]] = {}
        self._turn = threading.Lock()
        self._starter = ThreadPoolExecutor(1, "pickled starter")  # a thread that loads is niced, and for good what it starts
        self._starter.submit(int).result()  # now, in this thread's niceness
        shutil.rmtree(limits.scratch, ignore_errors=True)
        limits.scratch.mkdir(mode=0o700, parents=True)

    def load(self, path: PurePath, version: Version) -> Instance:
        """Return an instance with its least number of processes running.

        Raises:
            LoadFailed: the bytes are not those registered, the interpreter is not allowed, or it cannot be unpickled.
        """
        if version.pickled is None:
            raise LoadFailed(f"version {version.version!r} was not registered as a pickled model")
        return PickledInstance(self, open_artifact(path, version.digest), version, version.pickled, self._limits)

    def opened(self, path: PurePath, digest: Digest, pickled: Pickled) -> Fork:
        """Return one process with the model unpickled and nothing said yet of how to call it: for validation.

        Raises:
            LoadFailed: as of `load`.
        """
        descriptor = open_artifact(path, digest)
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
                server, users = ForkServer(*key, self._limits, self._starter), 0
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
        self._forks: list[Fork] = []  # every one, and some that have ended; replaced by the one thread that starts them
        self._alive = 0  # free or at work
        self._waiting = 0
        self._again = 0  # of those waiting, the members of a run that failed
        self._deaths = Deaths()
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

    @property
    def outside_bytes(self) -> int:
        """What its processes hold."""
        return sum(fork.own_bytes() for fork in self._forks)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the output by name.

        Raises:
            PredictFailed: the model raised, its process died or hung (`ProcessDied`), or none was free in time.
            OutputMismatch: as of `named`.
        """
        return self.predict_within(inputs, math.inf, is_again=False)

    def predict_within(self, inputs: Mapping[str, Array], within_s: float, *, is_again: bool) -> dict[str, Array]:
        """Return the output by name; raises as `predict` does. What is run again has its time from when it has a process."""
        timeout_s = self._limits.predict_timeout_s
        within_s = min(within_s, timeout_s)
        deadline_s = time.monotonic() + (timeout_s if is_again else within_s)
        fork = self._taken(deadline_s, is_again=is_again)
        if is_again:
            deadline_s = time.monotonic() + within_s
        with self.at_work(fork, within_s, is_again=is_again):
            answer = fork.predict([inputs[name] for name in self._inputs], deadline_s)
        return self.named(answer)

    def begin(self, inputs: Mapping[str, Array], *, within_s: float = math.inf) -> PickledRun | None:
        """Have a free process predict, or return None where there is none or the inputs are too large. Never blocks."""
        if not self._changed.acquire(blocking=False):
            return None
        try:
            fork = self._free.pop() if self._free and not self._is_closed else None
        finally:
            self._changed.release()
        if fork is None:
            return None
        with contextlib.suppress(Broken):  # its connection has ended, which is what is read next
            if not fork.begin([inputs[name] for name in self._inputs]):
                self.give_back(fork)
                return None
        return PickledRun(self, fork, min(within_s, self._limits.predict_timeout_s))

    def close(self) -> None:
        """Have the processes ended, in the thread that keeps them; those at work end with their answer."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _taken(self, deadline_s: float, *, is_again: bool) -> Fork:
        with self._changed:
            self._waiting += 1
            self._again += is_again
            try:
                while not self._free:
                    now_s = time.monotonic()
                    if self._is_closed:
                        raise PredictFailed("the instance was closed")
                    if self._alive == 0 and self._start_at_s() > deadline_s:
                        pause_s = self._deaths.start_at_s - now_s
                        raise PredictFailed(f"its processes died {self._deaths.count} times; the next starts in {pause_s:.1f} s")
                    if now_s >= deadline_s:
                        raise PredictFailed(f"none of its processes was free within {self._limits.predict_timeout_s:g} s")
                    self._changed.notify_all()
                    self._changed.wait(deadline_s - now_s)
                return self._free.pop()  # the one used last: its caches are warm, and the others may idle
            finally:
                self._waiting -= 1
                self._again -= is_again

    def named(self, answer: Array) -> dict[str, Array]:
        """Return a model's answer as the output that was registered; raises OutputMismatch where it is none."""
        return {self._output.name: registered(answer, self._output)}

    @contextlib.contextmanager
    def at_work(self, fork: Fork, within_s: float, *, is_again: bool = False) -> Iterator[None]:
        """Give a process back after its answer, which it had so long for, or have it replaced.

        Raises:
            PredictFailed: as of `predict`.
        """
        try:
            yield
        except Late as error:
            self._lost(fork, is_again=is_again)
            raise ProcessDied(
                f"it did not answer within {within_s:.3g} s; its process was killed",
                hint="pickled.predict_timeout_s is the bound",
            ) from error
        except Broken as error:
            self._lost(fork, is_again=is_again)
            raise ProcessDied(f"its process {fork.ending()} while it predicted") from error
        except PredictFailed as error:
            if not fork.is_alive() or error.message.endswith("out of memory"):
                self._lost(fork, is_again=is_again)
                raise ProcessDied(error.message) from error
            self.give_back(fork)
            raise
        except BaseException:
            self._lost(fork)
            raise
        self.give_back(fork)

    def give_back(self, fork: Fork) -> None:
        """Free a process for the next caller. Never blocks."""
        with self._changed:
            if not self._is_closed:
                self._free.append(fork)
                if self._waiting:
                    self._changed.notify_all()
                return
        threading.Thread(target=self._end, args=(fork,), name=f"pickled {self._name}", daemon=True).start()

    def _end(self, fork: Fork) -> None:
        """End a process of a closed instance, and with the last one what they share."""
        fork.end()
        with self._changed:
            self._alive -= 1
            is_last = self._alive == 0
        if is_last:
            self._leave()

    def _lost(self, fork: Fork, reason: str = "", *, is_again: bool = False) -> None:
        """Kill a process, for a reason or because it has ended, and have it replaced."""
        fork.end()
        facts = {"action": "replace", "version": self._name, "reason": reason or fork.ending()}
        _log.error("a pickled model's process ended", extra=facts)
        with self._changed:
            self._alive -= 1
            if not is_again:
                self._deaths.note(time.monotonic())
            self._changed.notify_all()
            is_last = self._is_closed and self._alive == 0
        if is_last:
            self._leave()

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
                    pause_s = self._start_at_s() - time.monotonic()
                    if not self._changed.wait(pause_s if 0 < pause_s < _LOOK_S else _LOOK_S):
                        break
                is_closed, wants_more = self._is_closed, self._wants_more()
            if is_closed:
                return self._wind_up()
            now_s = time.monotonic()
            busy_s = now_s if self._waiting or not self._free else busy_s
            try:
                if wants_more:
                    self._start()
                else:
                    self._look(is_idle=now_s - busy_s > _IDLE_S)
            except Exception as error:  # noqa: BLE001 - the keeper's loop; counted, and the next process starts after a pause
                if self._runtime.unexpected is not None:
                    self._runtime.unexpected.add(1.0)
                self._not_replaced(f"{type(error).__name__}: {error}")

    def _wants_more(self) -> bool:
        is_short = self._alive < self._pickled.instances_min or self._waiting > len(self._free)
        return is_short and self._alive < self._pickled.instances_max and time.monotonic() >= self._start_at_s()

    def _start_at_s(self) -> float:
        """Return when the next process may start: at once for who is run again, while any starts at all."""
        return 0.0 if self._again and self._deaths.has_started else self._deaths.start_at_s

    def _start(self) -> None:
        try:
            fork = self._forked()
        except LoadFailed as error:
            self._not_replaced(str(error))
            return
        with self._changed:
            self._alive += 1
            self._deaths.has_started = True
        self.give_back(fork)

    def _not_replaced(self, reason: str) -> None:
        _log.error("a process was not replaced", extra={"action": "replace", "version": self._name, "reason": reason})
        with self._changed:
            self._deaths.has_started = False
            self._deaths.note(time.monotonic())
            self._changed.notify_all()

    def _look(self, *, is_idle: bool) -> None:
        """End one idle process that has grown over its memory, died, or is one too many."""
        with self._changed:
            spent = next((fork for fork in self._free if fork.is_spent(self._limits.memory_bytes)), None)
            dead = spent or next((fork for fork in self._free if not fork.is_alive()), None)
            spare = self._free[0] if is_idle and self._free and self._alive > self._pickled.instances_min else None
            chosen = dead or spare
            if chosen is None:
                return
            self._free.remove(chosen)
            self._alive -= 1 if dead is None else 0
        if dead is None:
            chosen.end()
        else:
            self._lost(chosen, "" if spent is None else f"was over its memory: it held {spent.held_bytes():,} bytes and grew")

    def _forked(self) -> Fork:
        for _ in range(2):  # the fork server may have died since
            if self._server is None or not self._server.is_alive:
                self._leave()
                self._server = self._runtime.acquire(self._pickled)
            try:
                self._forks = [*filter(Fork.own_bytes, self._forks), self._server.fork(self._artifact, self._order)]
                return self._forks[-1]
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
