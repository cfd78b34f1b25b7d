"""Who is calling: a bearer token's digest looked up among the stored keys; and the admin token of the first start.

A token holds 256 random bits and is shown once; what is stored is its sha256, so that a plain lookup is safe against guessing
and against timing. The registry is asked for every call: a revoked key stops working at once.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.core.access import ADMIN_KEY_NAME, CONTROL, UNLIMITED, Key, Limits, Principal, Scope, token_digest
from gateway.core.changes import Change, DropKey, PutKey
from gateway.core.errors import NotAuthenticated, StoreFailed
from gateway.ports.clock import Clock
from gateway.ports.stores import RegistryStore

TOKEN_PREFIX: Final = "hg_"  # noqa: S105  # so that a leaked token is recognised by scanners and people
TOKEN_LENGTH_MAX: Final = 200
_PAGE: Final = 1_000


def principal_of(registry: RegistryStore, authorization: str | None) -> Principal:
    """Return who holds the token of an `Authorization` header; raises as `key_of`."""
    key = key_of(registry, authorization)
    return Principal(key.name, key.scopes)


def key_of(registry: RegistryStore, authorization: str | None) -> Key:
    """Return the key that the token of an `Authorization` header belongs to.

    Raises:
        NotAuthenticated: there is no bearer token, or no key has it.
        StoreFailed: the registry cannot be read; nobody is known then, so that its files are not named.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(token) <= TOKEN_LENGTH_MAX:
        raise NotAuthenticated("no bearer token was sent", hint="send the header Authorization: Bearer TOKEN")
    digest = token_digest(token.strip())
    try:
        key = next((key for key in all_keys(registry) if key.token_sha256 == digest), None)
    except StoreFailed as error:
        raise StoreFailed("the registry cannot be read") from error
    if key is None:
        raise NotAuthenticated("the token is not known", hint="it was revoked, or belongs to another gateway")
    return key


def all_keys(registry: RegistryStore) -> Iterator[Key]:
    """Yield every key."""
    after = ""
    while page := registry.keys(after, _PAGE):
        yield from page
        after = page[-1].id


def new_token() -> str:
    """Return a new token: 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def new_key(name: str, scopes: frozenset[Scope], *, limits: Limits = UNLIMITED, clock: Clock) -> tuple[Key, str]:
    """Return a new key and its token, which is nowhere else."""
    token = new_token()
    return Key(secrets.token_hex(8), name, token_digest(token), scopes, clock.now_s(), limits), token


def ensure_admin_token(registry: RegistryStore, path: Path, *, clock: Clock) -> None:
    """See to it that `path` holds a working admin token, readable by its owner alone.

    A file that was deleted or holds no valid token is replaced, and the token it held is revoked: deleting the file and
    starting again changes the token.

    Raises:
        StoreFailed: the file could not be written.
    """
    keys = tuple(all_keys(registry))
    held = _held(path)
    if any(key.token_sha256 == held and Scope.ADMIN in key.scopes for key in keys):
        return
    key, token = new_key(ADMIN_KEY_NAME, frozenset({Scope.ADMIN}), clock=clock)
    drops = tuple(DropKey(old.id) for old in keys if old.name == ADMIN_KEY_NAME)
    registry.commit(Change(CONTROL.name, "key.create", f"key:{key.id}", "admin token at start", (*drops, PutKey(key))))
    write_private(path, token)


def _held(path: Path) -> str | None:
    try:
        return token_digest(path.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return None


def write_private(path: Path, secret: str) -> None:
    """Replace a file atomically by one that only its owner reads.

    Raises:
        StoreFailed: it could not be written.
    """
    draft = path.with_name(path.name + ".new")
    try:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise StoreFailed(f"{path.name}: {error.strerror}") from error
