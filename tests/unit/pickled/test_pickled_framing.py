"""Tensors on the way to a model's process and back."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from adapters.runtimes.pickles.framing import (
    DIMENSIONS_MAX,
    JSON,
    TENSORS,
    Broken,
    Channel,
    Late,
    TooLarge,
    read_tensors,
    tensor_parts,
)
from gateway.core import models

NUMBERS = st.sampled_from([np.dtype(name) for name in ("?", "u1", "i4", "u8", "f2", "f4", "f8")])


def body_of(arrays: list[np.ndarray]) -> bytearray:
    return bytearray(b"".join(bytes(part) for part in tensor_parts(arrays)))


@given(st.lists(arrays_of.arrays(NUMBERS, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4)), max_size=4))
def test_tensors_survive_the_way(given_arrays):
    """What is read is what was written: types, shapes and bits."""
    found = read_tensors(body_of(given_arrays))
    assert [(one.dtype, one.shape, one.tobytes()) for one in found] == [
        (one.dtype, one.shape, one.tobytes()) for one in given_arrays
    ]


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_texts_survive_the_way(items):
    """Items of any length come back as they were."""
    array = np.empty(len(items), np.object_)
    array[:] = items
    assert read_tensors(body_of([array]))[0].tolist() == items


@given(st.binary(max_size=80))
def test_bytes_that_are_no_tensors_are_refused(noise):
    """Whatever a process answers, reading it ends in tensors or in one error."""
    try:
        read_tensors(bytearray(noise))
    except Broken:
        return
    read_tensors(bytearray(noise))


@pytest.mark.parametrize("change", [{"at": 0, "to": 200}, {"at": 1, "to": 33}, {"at": 8, "to": 255}, {"at": 16, "to": 255}])
def test_tensor_that_contradicts_itself_is_refused(change):
    """A type, a rank, a size or a shape that does not fit the bytes is an error, not memory."""
    body = body_of([np.arange(4.0)])
    body[change["at"]] = change["to"]
    with pytest.raises(Broken):
        read_tensors(body)


def test_tensor_has_as_many_dimensions_here_as_anywhere():
    """The bound that another process cannot look up is the one that stands in the core."""
    assert DIMENSIONS_MAX == models.DIMENSIONS_MAX
    deep = np.zeros((1,) * DIMENSIONS_MAX)
    assert read_tensors(body_of([deep]))[0].shape == deep.shape


def test_channel_is_bounded_in_bytes_and_time():
    """What is too large is not sent, what announces too much is not read, and nobody waits beyond the deadline."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours, 100)
        with pytest.raises(TooLarge):
            channel.send(TENSORS, [bytes(101)])
        with pytest.raises(Late):
            channel.receive(time.monotonic() + 0.01)
        Channel(theirs, 1_000).send(TENSORS, [bytes(101)])
        with pytest.raises(Broken, match="over the bound"):
            channel.receive(time.monotonic() + 1)


def test_message_at_once_is_a_message_or_left_for_the_waiting_reader():
    """What is whole, small and of the wanted kind is read without waiting; anything else is what `receive` then returns."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel, other = Channel(ours, 100_000), Channel(theirs, 200_000)

        def asked() -> None:
            assert channel.send_at_once(TENSORS, [b"question"])
            assert other.receive() == (TENSORS, b"question")

        asked()
        assert channel.receive_at_once(TENSORS) is None  # nothing there
        other.send(TENSORS, [b"answer"])
        assert channel.receive_at_once(TENSORS) == b"answer"
        asked()
        other.send(JSON, [b"{}"])
        assert channel.receive_at_once(TENSORS) is None
        assert channel.receive(time.monotonic() + 10) == (JSON, b"{}")
        asked()
        theirs.sendall(b"\x05")  # of a head
        assert channel.receive_at_once(TENSORS) is None
        theirs.sendall(bytes(7) + bytes([TENSORS]) + b"12345")
        assert channel.receive(time.monotonic() + 10) == (TENSORS, b"12345")
        asked()
        other.send(TENSORS, [bytes(150_000)])
        assert channel.receive_at_once(TENSORS) is None
        with pytest.raises(Broken, match="over the bound"):
            channel.receive(time.monotonic() + 10)
        theirs.close()
        assert channel.receive_at_once(TENSORS) is None


def test_question_that_would_block_is_not_sent():
    """A message that the kernel may not take at once is left to `send`; a closed connection is broken."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours, 2**24)
        assert not channel.send_at_once(TENSORS, [bytes(2**23)])
        theirs.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        theirs.close()
        with pytest.raises(Broken):
            channel.send_at_once(TENSORS, [b"x"])
