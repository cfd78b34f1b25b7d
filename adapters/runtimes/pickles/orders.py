"""What a fork is given: the imports of its server, how its model is called, the artifact as an open file that was hashed here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from gateway.core.errors import LoadFailed
from gateway.core.models import Digest, Pickled
from gateway.core.tensors import Signature

_NO_MODULES: Final = frozenset({"__main__", "__builtin__", "builtins"})


def modules_of(pickled: Pickled) -> tuple[str, ...]:
    """Return what a version's fork server imports: every module that its pickle names."""
    found = {name.partition(":")[0] for name in pickled.imports} - _NO_MODULES
    found |= {"joblib"} if pickled.format == "joblib" else set()
    found |= {"pandas"} if pickled.is_frame else set()
    return tuple(sorted(found))


def plan_of(pickled: Pickled, signature: Signature, columns: Sequence[str]) -> dict[str, object]:
    """Return how the model is called: `host.py` reads it."""
    names = [spec.name for spec in signature.inputs] if len(signature.inputs) > 1 else list(columns)
    return {"method": pickled.method, "names": names, "is_frame": pickled.is_frame}


def open_artifact(path: PurePath, digest: Digest) -> int:
    """Return a descriptor of the artifact after hashing what it holds.

    Raises:
        LoadFailed: those are other bytes, or there is no such file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LoadFailed(f"the artifact cannot be opened: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        os.close(descriptor)
        raise LoadFailed(f"the artifact cannot be read: {error.strerror}") from error
    if found != digest:
        os.close(descriptor)
        raise LoadFailed(f"the artifact has the digest {found}, and {digest} was registered")
    return descriptor
