"""The open-loop generator of the benchmark, against a small server whose every answer is decided here."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest

from loadtests.load import body
from loadtests.open_loop import opened

BODY = b'{"outputs":[]}'
STALL_S = 0.3


def _answer(status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(BODY)}\r\n\r\n".encode() + BODY


@contextlib.contextmanager
def _serving(answer: Callable[[int], list[bytes]]) -> Iterator[str]:
    """Serve requests; `answer(number)` returns the parts of the answer; none closes the connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with self.request.makefile("rb") as lines:
                for number in range(1_000_000):
                    while (line := lines.readline()) not in (b"\r\n", b""):
                        pass
                    if not line:
                        return
                    lines.read(len(body()))
                    if not (parts := answer(number)):
                        return
                    for part in parts:
                        self.request.sendall(part)

    class Threads(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Threads(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_stall_counts_in_every_request_that_was_due_meanwhile() -> None:
    """Latency counts from when a request was due, and a wait for the server is not the generator's lateness."""

    def answer(number: int) -> list[bytes]:
        if number == 20:
            threading.Event().wait(STALL_S)
        return [_answer()]

    with _serving(answer) as url:
        found = opened(url, route="small", requests_per_s=200, seconds=0.5, connections=1)
    assert found.p50_us > 1e6 * STALL_S / 10, "half of the requests were due during the stall or while it was made up for"
    assert found.p99_us > 1e6 * STALL_S * 0.8
    assert found.late_p99_us < 1e6 * STALL_S / 4
    assert found.errors == 0


def test_the_rate_is_kept_while_connections_are_idle() -> None:
    """Requests leave at the rate that was asked for, and each answer counts once."""
    with _serving(lambda _number: [_answer()]) as url:
        found = opened(url, route="small", requests_per_s=500, seconds=0.5, connections=4)
    assert found.sent_per_s == pytest.approx(500, rel=0.05)
    assert found.errors == 0


def test_an_answer_in_parts_is_one_answer() -> None:
    """An answer counts once and only when it is whole, wherever it is cut."""
    whole = _answer()
    with _serving(lambda number: [whole[: number % len(whole)], whole[number % len(whole) :]]) as url:
        found = opened(url, route="small", requests_per_s=400, seconds=0.5, connections=1)
    assert found.errors == 0


def test_an_answer_that_is_no_success_is_an_error() -> None:
    """Each answer with another status than 200 counts as an error."""
    with _serving(lambda number: [_answer("503 Service Unavailable" if number else "200 OK")]) as url:
        found = opened(url, route="small", requests_per_s=200, seconds=0.1, connections=1)
    assert found.errors == 20


def test_a_closed_connection_ends_the_run() -> None:
    """A server that closes a connection instead of answering is reported, not waited for."""

    def answer(number: int) -> list[bytes]:
        if number == 5:
            return []
        return [_answer()]

    with _serving(answer) as url, pytest.raises(ConnectionError, match="closed a connection"):
        opened(url, route="small", requests_per_s=200, seconds=0.5, connections=1)
