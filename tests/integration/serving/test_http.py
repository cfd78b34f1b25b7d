"""The connection itself: bounds in time and number, pipelining, chunks, and a drain that breaks no request."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.logs.memory import MemoryLog
from gateway.core.errors import LogFull
from gateway.core.records import Offset, Record
from gateway.settings import LogSettings, Settings

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
POST = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNK = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"


class Jammed:
    """A writer that has no room when told so, and says where."""

    def __init__(self, directory: Path) -> None:
        self.is_jammed = False
        self._directory = directory
        self._writer = MemoryLog().writer("w0")
        self.resumed_s = self._writer.resumed_s

    def append(self, records: Sequence[Record]) -> Offset:
        """Append, or not."""
        if self.is_jammed:
            raise LogFull("the disk of the prediction log is full", hint=f"free space for {self._directory}")
        return self._writer.append(records)

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close."""
        self._writer.close()


@pytest.fixture
def served(make_worker, models, until):
    """Return a worker with short timeouts and a linear model."""
    bounds = {"header_timeout_s": 0.3, "body_timeout_s": 0.3, "keep_alive_s": 0.5, "connections_max": 20}
    worker = make_worker(body_bytes_max=100_000, **bounds).start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    return worker


def status(answer: bytes) -> int:
    """Return an answer's status."""
    return int(answer.split()[1])


def test_slow_headers_are_answered_408(served):
    """A client that never ends its headers is cut off with an error; one that says nothing is closed."""
    answer = served.raw(b"GET /v2 HTTP/1.1\r\nHost:")
    assert status(answer) == 408
    assert b'"error"' in answer
    assert served.raw() == b""


def test_dripping_headers_do_not_prolong_their_time(served, receive):
    """Headers have one deadline, however many pieces they come in."""
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: h\r\n")
        connection.settimeout(0.05)
        for at in range(100):
            connection.sendall(b"X-%d: y\r\n" % at)
            try:
                answer = connection.recv(1000)
                break
            except TimeoutError:
                continue
        assert status(answer) == 408
    assert time.monotonic() - began_s < 2


def test_stalled_body_is_answered_408(served):
    """A body that stops arriving is given up, and leaves no record."""
    answer = served.raw(POST[:-10])
    assert status(answer) == 408
    assert json.loads(answer.partition(b"\r\n\r\n")[2]).keys() == {"error"}
    assert served.predictions() == []


def test_pipelined_request_whose_body_stalls_is_answered_408(served):
    """A request that waited in part behind another is given the same time for its body, and not for ever."""
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(POST + POST[:-10])
        answers = b""
        while more := connection.recv(65536):
            answers += more
    assert [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]] == [200, 408]
    assert time.monotonic() - began_s < 3


def test_dripping_body_has_a_pace_to_keep(served):
    """A body that comes byte by byte, each within its time, is given up: the whole has a deadline that bytes hardly move."""
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{")
        connection.settimeout(0.05)
        answer = b""
        for _ in range(60):
            connection.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(1000)
                break
    assert status(answer) == 408
    assert time.monotonic() - began_s < 2


def test_large_body_at_a_fair_pace_outlasts_the_timeout(served):
    """What has come prolongs a body's time: 60 kB at 50 kB a second take four times the time for one piece."""
    size = 60_000
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(head)
        connection.settimeout(0.1)
        for _ in range(12):
            connection.sendall(b" " * (size // 12))
            with contextlib.suppress(TimeoutError):
                assert status(connection.recv(1000)) == 400  # only once it is whole: white space is no JSON
                break
        else:
            connection.settimeout(5)
            assert status(connection.recv(1000)) == 400


def test_body_that_comes_in_pieces_is_served(served, receive):
    """Pieces within their time are one request, chunked or not."""
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        for at in range(0, len(POST), 40):
            connection.sendall(POST[at : at + 40])
        assert status(receive(connection)) == 200
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(BODY[at : at + 30]), BODY[at : at + 30]) for at in range(0, len(BODY), 30))
        connection.sendall(
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        )
        assert json.loads(receive(connection).partition(b"\r\n\r\n")[2])["outputs"][0]["data"] == [10.0]


def test_body_over_the_bound_is_413_and_the_connection_goes_on(served, receive):
    """The answer does not wait for the body; when the body has passed, the connection serves the next request."""
    big = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(big)
        assert status(receive(connection)) == 413
        connection.sendall(b" " * 200_000 + POST)
        assert status(receive(connection)) == 200
    chunked = (
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 2
    )
    assert status(served.raw(chunked)) == 413


def test_idle_connection_is_closed_and_a_busy_one_is_not(served, receive):
    """Keep-alive ends after its time without a request."""
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        began_s = time.monotonic()
        while time.monotonic() - began_s < 0.8:
            connection.sendall(LIVE)
            assert status(receive(connection)) == 200
        assert connection.recv(10) == b""
        assert time.monotonic() - began_s >= 1.2


def test_connections_are_bounded(served, receive, until):
    """One connection too many is told so at once, and a place that becomes free is taken."""
    served.client.close()
    until(lambda: status(served.raw(LIVE)) == 200)
    held = [socket.create_connection(("127.0.0.1", served.port), 5) for _ in range(20)]
    for connection in held:
        connection.sendall(LIVE)
        assert status(receive(connection)) == 200
    refused = served.raw(LIVE)
    assert status(refused) == 503
    assert b'"error"' in refused
    for connection in held:
        connection.close()
    until(lambda: status(served.raw(LIVE)) == 200)


def test_pipelined_requests_are_answered_in_order(served):
    """Requests sent without waiting are answered one after the other, also when the last of them is broken."""
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(POST + LIVE + POST + b"GET /v2/models/none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        content = _until_closed(connection)
    assert [part[:3] for part in content.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"200", b"404"]
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(POST + POST + b"nonsense\r\n\r\n")
        content = _until_closed(connection)
    assert [part[:3] for part in content.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"400"]
    assert json.loads(content.rpartition(b"\r\n\r\n")[2]).keys() == {"error"}


@pytest.mark.parametrize("broken", [POST[:-10], b"POST /v2 HTTP/1.1\r\nHost", CHUNK + b"zz\r\n", b"GET /v2 HTTP/3.0\r\n\r\n"])
def test_what_is_broken_behind_a_request_is_answered_after_it(served, broken):
    """A request that cannot be completed costs those before it nothing, and is told so itself."""
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(POST + POST + broken)
        connection.shutdown(socket.SHUT_WR)
        content = _until_closed(connection)
    assert [part[:3] for part in content.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"400"]
    assert json.loads(content.rpartition(b"\r\n\r\n")[2]).keys() == {"error"}


def test_body_that_breaks_after_its_answer_gets_no_second_one(served, receive):
    """A client refused before its body was in reads one answer, whatever follows."""
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(CHUNK.replace(b"/v2", b"/v3") + b"20000\r\n" + b" " * 0x20000)
        assert status(receive(connection)) == 404
        connection.sendall(b"zz\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""


def test_too_many_pipelined_requests_are_refused(served):
    """A client cannot queue requests without bound; those before the bound are answered."""
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(POST * 200)
        content = _until_closed(connection)
    assert 1 <= content.count(b"HTTP/1.1 200") <= 40
    assert content.count(b"HTTP/1.1 400") == 1
    assert json.loads(content.rpartition(b"\r\n\r\n")[2]) == {"error": "invalid HTTP: too many pipelined requests"}


def test_old_and_explicit_clients_are_closed_as_they_ask(served):
    """HTTP/1.0 and `Connection: close` end with the answer; HEAD has no body; 100-continue is sent when asked for."""
    for request in (b"GET /v2/health/live HTTP/1.0\r\n\r\n", LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")):
        with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
            connection.sendall(request)
            content = _until_closed(connection)
            assert b"connection: close" in content
            assert content.endswith(b'{"live":true}')
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(b"HEAD /v2/health/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert _until_closed(connection).endswith(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(POST[: -len(BODY)].replace(b"Host: h", b"Host: h\r\nExpect: 100-continue"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert status(connection.recv(1000)) == 200


def test_client_that_leaves_is_forgotten(served, until):
    """A client that closes before its answer harms nothing; its prediction is still on record."""
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
            connection.sendall(POST)
    until(lambda: len(served.predictions()) == 20)
    assert status(served.raw(POST)) == 200


def test_burst_of_connections_waits_in_the_kernel(served):
    """As many connections may wait to be accepted as whoever made the listener meant; beyond that callers lose a second."""
    served.infer("m", [[1, 2, 3, 4]])
    info = served._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    waiting_max = struct.unpack_from("=I", info, 28)[0]  # tcpi_sacked, which of a listener is its backlog
    assert waiting_max == min(2_048, int(Path("/proc/sys/net/core/somaxconn").read_text()))


@pytest.mark.parametrize(("count", "header"), [(30, b""), (1, b"Connection: close\r\n")], ids=["pipelined", "closing"])
def test_client_that_never_reads_is_cut(served, until, count, header):
    """Answers that nobody takes do not hold their connection: it is reset when its time to take them is over."""
    served._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # what it accepts has as little
    rows = {"name": "x", "shape": [11_000, 4], "datatype": "FP32", "data": [1] * 44_000}
    body = json.dumps({"inputs": [rows]}, separators=(",", ":")).encode()
    request = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n%bContent-Length: %d\r\n\r\n%b" % (header, len(body), body)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", served.port))
        sending = threading.Thread(target=_send_until_reset, args=(connection, request * count))
        sending.start()
        ends = (served.port, connection.getsockname()[1])
        until(lambda: _is_established(*ends))
        until(lambda: not _is_established(*ends), within_s=15)
    sending.join()


def _send_until_reset(connection: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(content)


def _is_established(port: int, peer: int) -> bool:
    """Return whether one of our sockets at `port` has an open connection to `peer`."""
    ends = (f":{port:04X}", f":{peer:04X}")
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any((line[1][8:], line[2][8:], line[3]) == (*ends, "01") for line in lines)


def test_upgrade_is_answered_as_plain_http(served):
    """Nobody is switched to a protocol that is not spoken here."""
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    answer = served.raw(request)
    assert status(answer) == 200


def test_answers_tell_nothing_of_the_machine_and_a_log_that_refuses_is_not_ready(make_worker, models, until, tmp_path):
    """Without room for records predictions and readiness are 503, with no path of the server, until there is room again."""
    writer = Jammed(tmp_path)
    worker = make_worker(writer=writer, settings=Settings(log=LogSettings(heartbeat_s=0.05))).start()
    worker.register("m", "1", models.linear(), champion=True)
    broken = models.linear()
    worker.register("m", "2", type(broken)(b"not an onnx file", broken.signature))
    worker.until_served(until)
    writer.is_jammed = True
    until(lambda: not worker.is_ready())
    refused = worker.infer("m", [[1, 2, 3, 4]])
    unloaded = worker.infer("m", [[1, 2, 3, 4]], version="2")
    assert (refused.status_code, unloaded.status_code) == (503, 500)
    for answer in (refused, unloaded, worker.client.get("/v2/health/ready")):
        assert str(tmp_path) not in answer.text
    writer.is_jammed = False
    until(worker.is_ready)
    assert worker.infer("m", [[1, 2, 3, 4]]).status_code == 200


def test_drain_finishes_what_runs_and_closes_what_is_idle(make_worker, models, until, receive):
    """While it drains a worker is live and not ready, answers with `Connection: close`, and loses no request."""
    worker = make_worker(inline_us_max=0.0).start()
    worker.register("m", "1", models.loop(), champion=True)
    worker.until_served(until)
    idle = socket.create_connection(("127.0.0.1", worker.port), 5)
    idle.sendall(LIVE)
    receive(idle)
    answers: list[bytes] = []
    running = threading.Thread(target=lambda: answers.append(worker.raw(_slow(1_000))))
    running.start()
    until(lambda: not worker.in_flight.is_empty())
    worker.begin_stop()
    until(lambda: _is_refused(worker.port))
    idle.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = receive(idle)
    assert status(answer) == 503
    assert b"connection: close" in answer
    assert idle.recv(10) == b""
    idle.close()
    running.join()
    assert status(answers[0]) == 200
    assert b"connection: close" in answers[0]
    worker.stop()
    assert len(worker.predictions()) == 1


def test_drain_ends_in_time(make_worker, models, until):
    """What does not finish within the bound is cut off."""
    worker = make_worker(inline_us_max=0.0, drain_s=0.3).start()
    worker.register("m", "1", models.loop(), champion=True)
    worker.until_served(until)
    with socket.create_connection(("127.0.0.1", worker.port), 5) as connection:
        connection.sendall(_slow(2_000))
        until(lambda: not worker.in_flight.is_empty())
        began_s = time.monotonic()
        worker.begin_stop()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""
        assert time.monotonic() - began_s < 1.5  # and not the 2 s and more that it runs


def _slow(thousands: int) -> bytes:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [thousands]}]}).encode()
    return b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def _until_closed(connection: socket.socket) -> bytes:
    content = b""
    while part := connection.recv(65536):
        content += part
    return content
