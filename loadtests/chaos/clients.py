"""Callers that are slow, gone, idle, hostile or broken."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson

from gateway.demo.wire import post
from loadtests.chaos.callers import FEATURES, ROUTE, Seen, infer, row_body
from loadtests.chaos.world import Report, World, descriptors, resident_bytes, until, world

STEADY_S = 2.0
IDLE_S = 8.0  # that a connection may say nothing in these scenarios; 10 s before its first request and 75 s after it by default
MUTE_ROWS, MUTE_REQUESTS = 4_000, 120  # 9 MB of answers, more than both ends and the kernel buffer
GROWTH_MAX = 64 * 2**20  # of a worker's memory in one scenario: one body of the largest size that serving takes
DOCUMENTED = frozenset({200, 400, 401, 404, 405, 408, 409, 413, 415, 422, 431, 501})  # of requests that are wrong


def slow(directory: Path, *, count: int = 200, patience_s: float = 2.0) -> Report:
    """Callers that send a byte at a time, beside sound ones."""
    report = Report(f"{count} callers that send a byte at a time")
    settings = {"HEADGATE_SERVING_HEADER_TIMEOUT_S": str(patience_s), "HEADGATE_SERVING_BODY_TIMEOUT_S": str(patience_s)}
    with world(directory, environment=settings) as gateway, gateway.traffic() as traffic, _watched(report, gateway):
        request = infer()
        head = request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        statuses: Counter[str] = Counter()
        with contextlib.ExitStack() as stack:
            dripping = [stack.enter_context(socket.create_connection(gateway.house.address, 5)) for _ in range(count)]
            for number, connection in enumerate(dripping):
                connection.sendall(head if number % 2 else b"")  # half of them drip their body
            start_s, at = time.monotonic(), 0
            while dripping and time.monotonic() < start_s + 10 * patience_s:
                byte = [(head * 2)[at : at + 1], request[len(head) + at : len(head) + at + 1]]
                at += 1
                dripping = [one for number, one in enumerate(dripping) if _drip(one, byte[bool(number % 2)], statuses)]
                time.sleep(0.1)
            report.facts.append(f"the slow callers saw {dict(statuses)} within {time.monotonic() - start_s:.1f} s (2 s allowed)")
        report.claim(set(statuses) <= {"408", "closed"} and not dripping, f"slow callers saw {statuses}, {len(dripping)} go on")
        traffic.stop()
        _check_undisturbed(report, gateway, traffic.seen)
    return report


def vanishing(directory: Path, *, count: int = 500) -> Report:
    """Callers that vanish within a request, after one, or before its answer: their connection is reset."""
    report = Report(f"{3 * count} callers that vanish")
    with world(directory) as gateway, gateway.traffic() as traffic, _watched(report, gateway):
        request = infer()
        for number in range(3 * count):
            connection = socket.create_connection(gateway.house.address, 5)
            connection.sendall((request[:200], request[:-50], request)[number % 3])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        time.sleep(STEADY_S)
        traffic.stop()
        _check_undisturbed(report, gateway, traffic.seen)
    return report


def unread(directory: Path, *, count: int = 10, patience_s: float = 2.0) -> Report:
    """Callers that ask and never read an answer, until every buffer on the way is full."""
    report = Report(f"{count} callers that never read")
    settings = {f"HEADGATE_SERVING_{name}": str(patience_s) for name in ("KEEP_ALIVE_S", "BODY_TIMEOUT_S")}
    tensor = {"name": "features", "shape": [MUTE_ROWS, FEATURES], "datatype": "FP32", "data": [0.5] * MUTE_ROWS * FEATURES}
    asking = post(f"/v2/models/{ROUTE}/infer", json.dumps({"inputs": [tensor]}).encode(), host="h")
    with world(directory, environment=settings) as gateway, gateway.traffic(rate=50.0) as traffic, _watched(report, gateway):
        worker = gateway.pid("w0")
        time.sleep(1.0)  # the sound callers are connected before
        before = descriptors(worker)
        with contextlib.ExitStack() as stack:
            unsent = {stack.enter_context(_mute(gateway.house.address)): asking * MUTE_REQUESTS for _ in range(count)}
            moved_s = time.monotonic()
            while time.monotonic() < moved_s + 3.0 and any(unsent.values()):
                for connection, content in unsent.items():
                    with contextlib.suppress(OSError):
                        if sent := connection.send(content[: 2**18]):
                            unsent[connection], moved_s = content[sent:], time.monotonic()
                time.sleep(0.01)
            asked = sum(MUTE_REQUESTS - len(content) // len(asking) for content in unsent.values())
            report.facts.append(f"{asked:,} requests for {MUTE_ROWS:,} rows were sent by them until nothing moved")
            try:
                until(lambda: descriptors(worker) <= before, within_s=40, every_s=0.2)
                report.facts.append(f"their connections were closed {time.monotonic() - moved_s:.1f} s later")
            except TimeoutError:
                report.claim(False, f"{descriptors(worker) - before} of their connections are still held 40 s later")
        traffic.stop()
        _check_undisturbed(report, gateway, traffic.seen)
    return report


def idle(directory: Path, *, count: int = 3_000) -> Report:
    """Thousands of connections that say nothing: over the limit, and within a higher one."""
    report = Report(f"{count:,} idle connections")
    for limit in (1_000, count + 100):
        _hold_idle(report, directory, count, limit)
    return report


def _hold_idle(report: Report, directory: Path, count: int, limit: int) -> None:
    """Open connections, wait until the gateway closes them, and claim that callers who were there noticed nothing."""
    settings = {f"HEADGATE_SERVING_{name}": str(IDLE_S) for name in ("KEEP_ALIVE_S", "HEADER_TIMEOUT_S")}
    settings["HEADGATE_SERVING_CONNECTIONS_MAX"] = str(limit)
    with world(directory, environment=settings) as gateway, gateway.traffic() as traffic:
        worker = gateway.pid("w0")
        time.sleep(1.0)  # the callers are connected before the idle ones come
        bytes_before, before = resident_bytes(worker), descriptors(worker)
        with contextlib.ExitStack() as stack:
            start_s = time.monotonic()
            for _ in range(count):
                stack.enter_context(socket.create_connection(gateway.house.address, 5))
            until(lambda: descriptors(worker) >= before + min(limit - 50, count), within_s=IDLE_S)
            held, grown = descriptors(worker) - before, resident_bytes(worker) - bytes_before
            report.facts.append(f"limit {limit:,}: {held:,} held, {max(grown, 0) / held / 1024:.1f} KiB each")
            until(lambda: descriptors(worker) <= before + 5, within_s=3 * IDLE_S, every_s=0.1)
            report.facts.append(
                f"limit {limit:,}: all closed {time.monotonic() - start_s:.1f} s after the first came ({IDLE_S:.0f} s allowed)"
            )
        traffic.stop()
        _check_undisturbed(report, gateway, traffic.seen)


def mutated(directory: Path, *, count: int = 10_000, seed: int = 1) -> Report:
    """Valid requests with seeded changes to their bytes or to their JSON, each over a socket."""
    report = Report(f"{count:,} mutated requests, seed {seed}")
    with world(directory) as gateway, _watched(report, gateway):
        right = _ask(gateway, infer())[1]
        draw, statuses, odd = random.Random(seed), Counter[int](), []
        slowest_s = 0.0
        for number in range(count):
            request = _mutated_bytes(draw) if number % 2 else _mutated_json(draw)
            start_s = time.monotonic()
            status, _ = _ask(gateway, request)
            slowest_s = max(slowest_s, time.monotonic() - start_s)
            statuses[status] += 1
            if status not in DOCUMENTED and status:
                odd.append(request)
        report.facts.append(
            f"answers {dict(sorted(statuses.items()))} (0: closed without one); the slowest took {slowest_s:.2f} s"
        )
        for request in odd[:5]:
            report.claim(False, f"an undocumented answer to {request[:300]!r}")
        report.claim(slowest_s < 5, "a request hung")
        report.claim(_ask(gateway, infer())[1]["outputs"] == right["outputs"], "a prediction differs afterwards")
    return report


def bombs(directory: Path, *, size: int = 200 * 2**20) -> Report:
    """Bodies of a few hundred kilobytes that unpack to as many megabytes, once and twice over."""
    report = Report(f"gzip bombs of {size // 2**20} MiB")
    once = gzip.compress(bytes(size), 6)
    twice = gzip.compress(once)
    with world(directory) as gateway, gateway.traffic() as traffic, _watched(report, gateway):
        paths = (f"/v2/models/{ROUTE}/infer", f"/v1/models/{ROUTE}:predict", "/api/v1/ground-truth")
        for coding, body in (("gzip", once), ("gzip, gzip", twice), ("gzip", twice), ("gzip", gzip.compress(row_body())[:-9])):
            for path in paths:
                head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
                start_s = time.monotonic()
                status, _ = _ask(gateway, head.encode() + body)
                took_s = time.monotonic() - start_s
                report.claim(status in (400, 401, 413, 415), f"{path} answered {status}")
                report.claim(took_s < 2, f"{path} took {took_s:.1f} s")
                report.facts.append(f"{path}, {coding}, {len(body):,} bytes: {status} after {took_s:.3f} s")
        traffic.stop()
        _check_undisturbed(report, gateway, traffic.seen)
    return report


@contextlib.contextmanager
def _watched(report: Report, gateway: World) -> Iterator[None]:
    """Claim that the worker stays, and its memory and files about where they were."""
    worker = gateway.pid("w0")
    bytes_before, files_before = resident_bytes(worker), descriptors(worker)
    yield
    report.claim(gateway.pid("w0") == worker, "the worker died")
    until(lambda: descriptors(worker) <= files_before + 20, within_s=10)
    grown = resident_bytes(worker) - bytes_before
    report.facts.append(f"the worker's memory: {bytes_before / 2**20:.0f} MiB before, {grown / 2**20:+.1f} MiB after")
    report.claim(grown < GROWTH_MAX, "the worker's memory grew")


def _check_undisturbed(report: Report, gateway: World, seen: Seen) -> None:
    """Claim that sound callers beside noticed nothing."""
    report.note_seen(seen)
    report.claim(set(seen.statuses()) == {200} and not seen.losses, "a sound caller saw something")
    report.check_log(gateway.data_dir, seen)


def _mute(address: tuple[str, int]) -> socket.socket:
    """Return a connection that takes little and does not wait."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(address)
    connection.setblocking(False)
    return connection


def _drip(connection: socket.socket, byte: bytes, statuses: Counter[str]) -> bool:
    """Send a byte and return whether the connection goes on; what it was told is counted."""
    try:
        connection.setblocking(False)
        told = connection.recv(4_096)
        statuses[told[9:12].decode() or "closed"] += 1
    except BlockingIOError:
        pass
    except OSError:
        statuses["closed"] += 1
    else:
        return False
    try:
        connection.send(byte or b" ")
    except OSError:
        statuses["closed"] += 1
        return False
    return True


def _ask(gateway: World, request: bytes) -> tuple[int, dict[str, object]]:
    """Send a request, say that nothing follows, and return the first answer's status and body; 0 when there was none."""
    with socket.create_connection(gateway.house.address, 10) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        content = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65_536):
                content += more
    head, _, body = content.partition(b"\r\n\r\n")
    if not content:
        return 0, {}
    with contextlib.suppress(ValueError):
        return int(head[9:12]), orjson.loads(body)
    return int(head[9:12]), {}


def _mutated_bytes(draw: random.Random) -> bytes:
    request = bytearray(
        infer(headers="Gateway-Assignment-Key: k\r\nInference-Header-Content-Length: 20\r\n" * draw.randint(0, 1))
    )
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(request)), draw.randint(1, 12)
        match draw.randrange(6):
            case 0:
                request[at] ^= 1 << draw.randrange(8)
            case 1:
                request[at:at] = draw.randbytes(length)
            case 2:
                del request[at : at + length]
            case 3:
                request[at:at] = request[at : at + length] * draw.randint(1, 50)
            case 4:
                request[at : at + 1] = draw.choice(
                    [b"\r\n", b"\0", b'"', b"[", b"{", b"-", b"e999", b"\xff", b",", b":", b"9" * 400]
                )
            case _:
                del request[at:]
        if not request:
            return b"\0"
    return bytes(request)


_ODD = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**200,
    1e308,
    -0.5,
    "",
    "features",
    "FP32",
    "INT64",
    "BYTES",
    "\0",
    "é" * 300,
    [],
    {},
    [[]],
    [None],
]
_NAMES = [
    "inputs",
    "name",
    "shape",
    "datatype",
    "data",
    "parameters",
    "outputs",
    "id",
    "binary_data_size",
    "timeout",
    "instances",
]


def _mutated_json(draw: random.Random) -> bytes:
    body = orjson.loads(row_body())
    for _ in range(draw.randint(1, 3)):
        holder: object = body
        while isinstance(holder, dict | list) and holder:
            key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            inner = holder[key]  # type: ignore[index]
            if not isinstance(inner, dict | list) or not inner or draw.random() < 0.3:
                _mutate(draw, holder, key)
                break
            holder = inner
    path = draw.choice([f"/v2/models/{ROUTE}/infer", f"/v2/models/{ROUTE}/versions/1/infer", f"/v1/models/{ROUTE}:predict"])
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def _mutate(draw: random.Random, holder: object, key: object) -> None:
    odd = copy.deepcopy(draw.choice(_ODD))
    match holder, draw.randrange(4):
        case dict(), 0:
            del holder[key]
        case dict(), 1:
            holder[draw.choice(_NAMES)] = odd
        case list(), 0:
            del holder[key]  # type: ignore[arg-type]
        case list(), 1:
            holder.extend(holder[:50] * draw.randint(1, 5))
        case _:
            holder[key] = odd  # type: ignore[index]
