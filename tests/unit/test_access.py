"""Scopes and keys."""

from __future__ import annotations

import itertools

import pytest

from adapters.clock import SystemClock
from adapters.stores.registry import SqliteRegistry
from gateway.control.auth import principal_of
from gateway.core.access import MONITOR, Key, Principal, Scope, key_body, token_digest
from gateway.core.errors import NotPermitted, StoreFailed


@pytest.mark.parametrize(("held", "asked"), list(itertools.product(Scope, Scope)))
def test_principal_may_do_what_its_scope_says(held, asked):
    """A scope allows itself and nothing else; `admin` allows everything."""
    principal = Principal("ada", frozenset({held}))
    if held in (asked, Scope.ADMIN):
        principal.require(asked)
    else:
        with pytest.raises(NotPermitted, match=asked.value):
            principal.require(asked)


def test_stranger_learns_no_path_of_the_registry(tmp_path):
    """Who cannot be looked up is told that the registry fails, not where it lies."""
    registry = SqliteRegistry(tmp_path / "registry.db", clock=SystemClock())
    registry.close()
    with pytest.raises(StoreFailed, match=str(tmp_path)):
        registry.keys()
    with pytest.raises(StoreFailed) as refused:
        principal_of(registry, "Bearer hg_anything")
    assert str(refused.value) == "the registry cannot be read"


@pytest.mark.parametrize("asked", Scope)
def test_principal_without_scopes_may_do_nothing(asked):
    """A key without scopes opens no door."""
    with pytest.raises(NotPermitted):
        Principal("ada", frozenset()).require(asked)


def test_monitor_may_only_operate():
    """The gateway's own part changes routes; it reads no predictions and makes no keys."""
    MONITOR.require(Scope.OPERATE)
    for scope in set(Scope) - {Scope.OPERATE}:
        with pytest.raises(NotPermitted):
            MONITOR.require(scope)


NONE = {"requests_per_s": 0.0, "burst": 0, "rows_per_day": 0}


def test_key_is_shown_without_what_it_is_looked_up_by():
    """Nothing of the token leaves the registry."""
    key = Key("k1", "ada", token_digest("secret"), frozenset({Scope.READ, Scope.ADMIN}), 5.0)
    assert key_body(key) == {"id": "k1", "name": "ada", "scopes": ["admin", "read"], "created_at_s": 5.0, "limits": NONE}


def test_token_digest_takes_any_text():
    """A token is compared by its sha256, whatever a header may hold."""
    assert token_digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len({token_digest(token) for token in ("", "a", "ä", "\ud800")}) == 4
