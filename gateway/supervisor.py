"""The supervisor: starts every plane in a process of its own, watches them, restarts what dies, and stops them in order.

It holds one listening `SO_REUSEPORT` socket per serving worker itself, so that connections wait in the kernel while a worker
comes back. It holds the data directory's lock: a second gateway on the directory, or on the port, is refused. It serves no
request and reads no record.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from gateway.compose.directory import DataDirectory
from gateway.compose.parts import worker_names
from gateway.compose.planes import ARCHIVE, CONTROL, MONITOR, SERVING
from gateway.compose.start import prepare_data, watch
from gateway.core.errors import GatewayError, StoreFailed
from gateway.core.partitions import partitions
from gateway.journal import open_journal
from gateway.ports.inflight import LoopWatch
from gateway.settings import ServingSettings, Settings, settings_body
from gateway.web import read_certificate

_log = logging.getLogger(__name__)
_WATCH_S: Final = 0.1  # how often the watchdog looks; signals wake it at once
_STOOD_S: Final = 1.0  # between two looks: this process stood still itself, as when all of them are frozen or starved
_START_S: Final = 60.0  # a worker may take so long to load its versions before the watchdog expects it to turn
_STOP_S: Final = 10.0  # for the planes without requests of their own
_CALM_S: Final = 60.0  # alive for so long, a process's earlier deaths are forgotten
_BACKLOG: Final = 2_048
_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_NO_NEW_CONNECTION: Final = (  # classic BPF over a segment from its TCP header on: code, jump if true, jump if false, operand
    (0x30, 0, 0, 13),  # load the flags
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone begins a connection
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFF),  # keep everything else, also what completes a handshake under way
)
PROGRAM: Final = (sys.executable, "-m", "gateway")


@dataclass(slots=True)
class Child:
    """One plane's process and its history.

    Attributes:
        is_killed: Because it hung; it is not killed twice while it dies.
    """

    plane: str
    program: Sequence[str]
    worker: str = ""
    listener: socket.socket | None = None
    watch: LoopWatch | None = None
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    is_killed: bool = False
    deaths: int = 0
    restart_at_s: float = field(default=0.0)

    @property
    def name(self) -> str:
        """What the journal calls it."""
        return self.worker or self.plane


def supervise(settings: Settings, *, program: Sequence[str] = PROGRAM) -> int:
    """Run the gateway until SIGTERM or SIGINT; return the exit code.

    Args:
        program: Takes `plane NAME …` and runs that plane; another composition of the same planes is another program.
    """
    open_journal("supervisor")
    try:
        with _locked(DataDirectory(settings.data_dir)), _Signals() as signals:
            _run(settings, signals, program)
    except GatewayError as error:
        _log.error("the gateway cannot start", extra={"action": "start", "reason": str(error)})
        return 1
    return 0


class _Signals:
    """The signals that end a wait: a child's death, and the wish to stop, which stands however often it is repeated.

    Handlers and a socket rather than a mask: libraries have threads of their own by now, which no mask of ours reaches.
    """

    def __init__(self) -> None:
        self.is_stopping = False
        self._reader, self._writer = socket.socketpair()

    def __enter__(self) -> _Signals:
        for end in (self._reader, self._writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()

    def wait(self, timeout_s: float) -> None:
        """Return when a signal came, or after `timeout_s`."""
        if select.select([self._reader], [], [], timeout_s)[0]:
            self._reader.recv(4_096)

    def _stop(self, *_: object) -> None:
        self.is_stopping = True


def _run(settings: Settings, signals: _Signals, program: Sequence[str]) -> None:
    prepare_data(settings)
    serving, control = settings.serving, settings.control
    listeners = _shared_listeners(serving.host, serving.port, serving.workers)
    admin = _listener(control.host, control.port)
    grpc = _kept_for_grpc(serving)
    settings = replace(
        settings,
        serving=replace(serving, port=listeners[0].getsockname()[1], grpc_port=grpc.getsockname()[1] if grpc else -1),
        control=replace(control, port=admin.getsockname()[1]),
    )
    _publish(settings)
    children = [Child(CONTROL, program, listener=admin), Child(ARCHIVE, program)]
    children += [Child(MONITOR, program, worker=one.process) for one in partitions(settings.monitor.processes)]
    for worker, listener in zip(worker_names(settings), listeners, strict=True):
        children.append(Child(SERVING, program, worker=worker, listener=listener, watch=watch(settings, worker)))
    for child in children:
        _start(child, settings)
    _log.info(
        "the gateway is up",
        extra={
            "action": "start",
            "port": settings.serving.port,
            "admin_port": settings.control.port,
            **({"grpc_port": settings.serving.grpc_port} if grpc else {}),
            "pid": os.getpid(),
        },
    )
    try:
        _keep_running(children, settings, signals)
    finally:
        _stop(children, settings)
        if grpc is not None:
            grpc.close()


def _keep_running(children: list[Child], settings: Settings, signals: _Signals) -> None:
    looked_s = awake_s = time.monotonic()
    while not signals.is_stopping:
        signals.wait(_WATCH_S)
        awake_s, looked_s = awake_since(awake_s, looked_s, time.monotonic()), time.monotonic()
        for child in children:
            kill_if_hung(child, settings, awake_s=awake_s)
            _note_death(child, settings)
            if child.process is None and time.monotonic() >= child.restart_at_s and not signals.is_stopping:
                _start(child, settings)


def _start(child: Child, settings: Settings) -> None:
    command = [*child.program, "plane", child.plane, "--settings", str(DataDirectory(settings.data_dir).settings)]
    command += ["--supervisor", str(os.getpid())]
    inherited: tuple[int, ...] = ()
    if child.worker:
        command += ["--worker", child.worker]
    if child.listener is not None:
        inherited = (child.listener.fileno(),)
        command += ["--listener", str(child.listener.fileno())]
    child.process = subprocess.Popen(command, pass_fds=inherited, stdin=subprocess.DEVNULL)  # noqa: S603 - our own program
    child.started_s, child.is_killed = time.monotonic(), False
    _log.info("process started", extra={"action": "start", "child": child.name, "child_pid": child.process.pid})


def _note_death(child: Child, settings: Settings) -> None:
    if child.process is None or child.process.poll() is None:
        return
    lived_s = time.monotonic() - child.started_s
    child.deaths = 1 if lived_s > _CALM_S else child.deaths + 1
    limits = settings.supervisor
    delay_s = min(limits.restart_backoff_s * 2 ** min(child.deaths - 1, 30), limits.restart_backoff_max_s)
    child.restart_at_s = time.monotonic() + delay_s
    _log.error(
        "process died",
        extra={
            "action": "restart",
            "child": child.name,
            "code": child.process.returncode,
            "lived_s": lived_s,
            "delay_s": delay_s,
        },
    )
    child.process = None


def awake_since(awake_s: float, looked_s: float, now_s: float) -> float:
    """Return since when the supervisor looks without a gap: while it stood still itself, nobody can be said to have hung."""
    return now_s if now_s - looked_s > _STOOD_S else awake_s


def kill_if_hung(child: Child, settings: Settings, *, awake_s: float) -> None:
    """Kill a worker whose loop stands still for longer than it may, counted from when the supervisor was awake."""
    if child.process is None or child.watch is None or child.is_killed or child.process.poll() is not None:
        return
    now_s, turned_s = time.monotonic(), child.watch.last_turn_s()
    is_starting = turned_s < child.started_s
    silent_s = now_s - max(turned_s, child.started_s, awake_s)
    if silent_s > (_START_S if is_starting else settings.supervisor.hang_s):
        _log.error("a worker's loop stands still", extra={"action": "kill", "child": child.name, "silent_s": silent_s})
        child.watch.mark_hung()
        child.process.kill()
        child.is_killed = True


def _stop(children: list[Child], settings: Settings) -> None:
    """Stop in the order of the loop: who writes records, who reads them, who shows them."""
    _log.info("stopping", extra={"action": "stop"})
    listeners = [child.listener for child in children if child.listener is not None]
    for listener in listeners:  # all of them before any worker closes one, since what one refuses another would get
        _admit_nobody(listener)
    for listener in listeners:
        listener.close()  # so that a plane that stops listening is not listening, and callers are refused
    for plane, patience_s in (
        (SERVING, settings.serving.drain_s + _STOP_S),
        (ARCHIVE, _STOP_S),
        (MONITOR, _STOP_S),
        (CONTROL, _STOP_S),
    ):
        group = [child.process for child in children if child.plane == plane and child.process is not None]
        for process in group:
            process.terminate()
        deadline_s = time.monotonic() + patience_s
        for process in group:
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.error("a process did not stop in time", extra={"action": "kill", "child": plane, "child_pid": process.pid})
                process.kill()
                process.wait()
    _log.info("stopped", extra={"action": "stop"})


def _shared_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """Return one listening socket per worker on the same port.

    `SO_REUSEPORT` would silently share the port with another gateway, so a socket without it is bound first and let go.
    """
    with _bound(host, port, is_shared=False) as probe:
        port = probe.getsockname()[1]
    listeners = [_bound(host, port, is_shared=True) for _ in range(count)]
    for listener in listeners:
        listener.listen(_BACKLOG)
    return listeners


def _kept_for_grpc(serving: ServingSettings) -> socket.socket | None:
    """Return a socket that keeps the gRPC port from others and takes no connection, or None when none is asked for.

    The workers listen on it by themselves, because the library takes no socket of ours.
    """
    if serving.grpc_port < 0:
        return None
    if importlib.util.find_spec("grpc") is None:
        raise StoreFailed("a gRPC port needs the package grpcio, which is not installed", hint="pip install 'headgate[grpc]'")
    if serving.grpc_certificate or serving.grpc_key:  # one alone is refused, too
        read_certificate(serving.grpc_certificate, serving.grpc_key)
    with _bound(serving.host, serving.grpc_port, is_shared=False) as probe:
        port = probe.getsockname()[1]
    return _bound(serving.host, port, is_shared=True)


def _listener(host: str, port: int) -> socket.socket:
    listener = _bound(host, port, is_shared=False)
    listener.listen(_BACKLOG)
    return listener


def _bound(host: str, port: int, *, is_shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        raise StoreFailed(
            f"cannot listen on {host}:{port}: {error}", hint="another gateway may run there; choose --port"
        ) from error
    return listener


def _admit_nobody(listener: socket.socket) -> None:
    """Let the kernel drop whoever begins to connect from now on.

    Closing a listener resets what waits in it unaccepted, whose requests may have been sent. So first the queue must stop
    growing, and then each worker empties it. Who is dropped asks again after a second and is refused by then.
    """
    code = b"".join(struct.pack("=HBBI", *step) for step in _NO_NEW_CONNECTION)
    steps = ctypes.create_string_buffer(code)
    with contextlib.suppress(OSError):  # where it is forbidden, a connection of that very moment is reset, and no more is lost
        program = struct.pack("@HP", len(_NO_NEW_CONNECTION), ctypes.addressof(steps))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


@contextlib.contextmanager
def _locked(data: DataDirectory) -> Iterator[None]:
    try:
        data.make()
        lock = data.lock.open("a")
    except OSError as error:
        raise StoreFailed(f"the data directory cannot be used: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreFailed(f"another gateway runs on {data.root}", hint="stop it, or choose --data-dir") from error
        yield


def _publish(settings: Settings) -> None:
    """Write what the children read, and where the gateway listens, for people and scripts."""
    data, serving = DataDirectory(settings.data_dir), settings.serving
    _replace(data.settings, settings_body(settings))
    _replace(
        data.addresses,
        {
            "url": _url(serving.host, serving.port),
            "admin_url": _url(settings.control.host, settings.control.port),
            **({"grpc": _url(serving.host, serving.grpc_port).removeprefix("http://")} if serving.grpc_port >= 0 else {}),
            "pid": os.getpid(),
        },
    )


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _replace(path: Path, body: object) -> None:
    staged = path.with_suffix(".new")
    try:
        staged.write_text(json.dumps(body))
        staged.replace(path)
    except OSError as error:
        raise StoreFailed(f"{path}: {error.strerror}", hint="make room on the file system") from error
