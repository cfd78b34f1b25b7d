"""Who may look: a token opens a visit, whose cookie shows the status page and nothing else.

The cookie never holds the token. Cookies reach every port of a host, so a token in one would be shown to whatever else runs
there. A visit names a key and its end, signed with a secret that is neither in the registry nor in a backup, so that reading
those opens none. The key is looked up at each page, so that a revoked one shows nothing more. Nothing of a visit is held here:
it goes on when this process begins anew.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
from pathlib import Path
from typing import Final

from gateway.control.auth import all_keys, write_private
from gateway.core.access import Key, Principal
from gateway.core.errors import NotAuthenticated
from gateway.ports.clock import Clock
from gateway.ports.stores import RegistryStore

COOKIE: Final = "headgate_visit"
PATH: Final = "/status"  # where a browser sends the cookie
VISIT_S: Final = 12 * 3_600.0  # a working day and its evening
SECRET_NAME: Final = "visits.secret"  # noqa: S105  # of the file in the data directory
_SECRET_BYTES: Final = 32  # as the digest's
_COOKIE_CHARACTERS_MAX: Final = 200
_PARTS: Final = 3


class Visits:
    """Opens visits and knows them again; there may be any number."""

    def __init__(self, registry: RegistryStore, *, secret: bytes, clock: Clock) -> None:
        self._registry = registry
        self._secret = secret
        self._clock = clock

    def open(self, key: Key) -> str:
        """Return the cookie of a new visit of whoever holds a key."""
        content = f"{key.id}.{int(self._clock.now_s() + VISIT_S)}"
        return f"{content}.{self._signed(content)}"

    def visitor(self, cookie: str) -> Principal:
        """Return whose visit a cookie stands for.

        Raises:
            NotAuthenticated: it is not one of ours, its time is over or longer than any's, or its key was revoked.
        """
        parts = cookie[:_COOKIE_CHARACTERS_MAX].split(".")
        if len(parts) != _PARTS or not (parts[1].isascii() and parts[1].isdigit()):
            raise NotAuthenticated("no visit was opened here")
        id, until_s, signature = parts
        if not hmac.compare_digest(signature.encode(), self._signed(f"{id}.{until_s}").encode()):
            raise NotAuthenticated("no visit was opened here")
        if int(until_s) <= self._clock.now_s():
            raise NotAuthenticated("the visit is over")
        if int(until_s) > self._clock.now_s() + VISIT_S:
            raise NotAuthenticated("no visit lasts that long")
        key = self._key(id)
        return Principal(key.name, key.scopes)

    def _key(self, id: str) -> Key:
        for key in all_keys(self._registry):
            if key.id == id:
                return key
        raise NotAuthenticated("the key was revoked")

    def _signed(self, content: str) -> str:
        return hmac.digest(self._secret, content.encode(), "sha256").hex()


def ensure_secret(path: Path) -> bytes:
    """Return what visits are signed with, from `path`; without a whole one there, make one that its owner alone reads.

    Deleting the file and starting again ends every visit.

    Raises:
        StoreFailed: the file could not be written.
    """
    with contextlib.suppress(OSError):  # as if there were none
        held = path.read_bytes().strip()
        if len(held) == 2 * _SECRET_BYTES:
            return held
    secret = secrets.token_hex(_SECRET_BYTES)
    write_private(path, secret)
    return secret.encode()
