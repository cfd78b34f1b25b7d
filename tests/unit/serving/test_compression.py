"""Which encoding an answer gets."""

from __future__ import annotations

import pytest

from gateway.serving.compression import chosen_encoding


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"gzip, deflate, br", b"gzip"),
        (b"GZIP;Q=0.5,deflate;q=1", b"deflate"),
        (b"gzip;q=0.5, identity", b""),
        (b"gzip;q=0.5, identity;q=0.4", b"gzip"),
        (b"gzip;q=0, deflate;q=0.1", b"deflate"),
        (b"*", b"gzip"),
        (b"*;q=0", b""),
        (b"gzip;q=0, *", b"deflate"),
        (b"gzip;q=x", b""),
        (b"gzip;q=2", b""),
        (b"gzip;q=nan", b""),
        (b"br", b""),
        (b"", b""),
        (b",;,=", b""),
    ],
)
def test_answer_gets_the_encoding_with_the_highest_weight(accepted, chosen):
    """The caller's weights decide, gzip where they are equal; nothing is compressed for those who did not ask."""
    assert chosen_encoding(accepted) == chosen
