"""The demonstration's client against a real socket that answers in awkward pieces."""

from __future__ import annotations

import asyncio

import pytest

from gateway.demo.wire import Broken, Connection, post


async def serve(*answers: list[bytes]) -> tuple[asyncio.Server, int]:
    """Serve one list of pieces for each request, then close."""
    scripts = iter(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for pieces in scripts:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if not pieces or b"close" in pieces[0]:
                break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def ask_all(*answers: list[bytes], count: int = 1):
    """Ask `count` times over one connection and return the answers."""

    async def run():
        server, port = await serve(*answers)
        async with server:
            connection = Connection("127.0.0.1", port)
            try:
                return [await connection.ask(post("/x", b"", host="x")) for _ in range(count)]
            finally:
                connection.close()

    return asyncio.run(run())


def test_answer_may_come_in_pieces():
    """An answer torn anywhere is put together."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    (answer,) = ask_all([whole[at : at + 1] for at in range(len(whole))])

    assert (answer.status, answer.body) == (200, b"hello")


def test_connection_is_used_again():
    """Two answers over one connection do not mix."""
    first, second = ask_all(
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"], [b"HTTP/1.1 503 No\r\ncontent-length: 1\r\n\r\nb"], count=2
    )

    assert (first.body, second.status, second.body) == (b"a", 503, b"b")


def test_connection_is_opened_again_after_a_close():
    """A server that says it closes is asked over a new connection next time."""
    closing = [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na"]
    first, second = ask_all(closing, [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"], count=2)

    assert (first.body, second.body) == (b"a", b"b")


def test_lost_connection_is_an_error():
    """A connection that ends without an answer raises, and does not wait."""
    with pytest.raises(Broken):
        ask_all([])
