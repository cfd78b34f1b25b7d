"""Who may look: a token opens a visit, whose cookie shows the status page and nothing else.

The cookie never holds the token. Cookies reach every port of a host, so a token in one would be shown to whatever else runs
there. A visit names a key and its end, signed with the key's stored digest, which nobody is shown; the key is looked up at each
page, so that a revoked one shows nothing more. Nothing of a visit is held here: it goes on when this process begins anew.
"""

from __future__ import annotations

import hmac
from typing import Final

from gateway.control.auth import all_keys, principal_of
from gateway.core.access import Key, Principal, Scope, token_digest
from gateway.core.errors import NotAuthenticated
from gateway.ports.clock import Clock
from gateway.ports.stores import RegistryStore

COOKIE: Final = "headgate_visit"
PATH: Final = "/status"  # where a browser sends the cookie
VISIT_S: Final = 12 * 3_600.0  # a working day and its evening
_COOKIE_CHARACTERS_MAX: Final = 200
_PARTS: Final = 3


class Visits:
    """Opens visits and knows them again; there may be any number."""

    def __init__(self, registry: RegistryStore, *, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock

    def open(self, token: str) -> str:
        """Return the cookie of a new visit.

        Raises:
            NotAuthenticated: the token is not known.
            NotPermitted: it may not read.
        """
        principal_of(self._registry, f"Bearer {token}").require(Scope.READ)
        digest = token_digest(token.strip())
        key = next((one for one in all_keys(self._registry) if one.token_sha256 == digest), None)
        if key is None:
            raise NotAuthenticated("the token is not known")
        content = f"{key.id}.{int(self._clock.now_s() + VISIT_S)}"
        return f"{content}.{_signed(content, key)}"

    def visitor(self, cookie: str) -> Principal:
        """Return whose visit a cookie stands for.

        Raises:
            NotAuthenticated: it is not one of ours, its time is over, or its key was revoked.
            NotPermitted: the key may not read.
        """
        parts = cookie[:_COOKIE_CHARACTERS_MAX].split(".")
        if len(parts) != _PARTS or not (parts[1].isascii() and parts[1].isdigit()):
            raise NotAuthenticated("no visit was opened here")
        id, until_s, signature = parts
        key = self._key(id)
        if not hmac.compare_digest(signature.encode(), _signed(f"{id}.{until_s}", key).encode()):
            raise NotAuthenticated("no visit was opened here")
        if int(until_s) <= self._clock.now_s():
            raise NotAuthenticated("the visit is over")
        principal = Principal(key.name, key.scopes)
        principal.require(Scope.READ)
        return principal

    def _key(self, id: str) -> Key:
        for key in all_keys(self._registry):
            if key.id == id:
                return key
        raise NotAuthenticated("the key was revoked")


def _signed(content: str, key: Key) -> str:
    return hmac.digest(key.token_sha256.encode(), content.encode(), "sha256").hex()
