"""A certificate and its key, read from files and refused where they do not fit; read again once the files have changed."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from gateway.core.errors import MalformedRequest

_log = logging.getLogger(__name__)
Certificate = tuple[bytes, bytes]  # the chain and its key, both PEM


def read_certificate(certificate: str, key: str) -> Certificate:
    """Return what the files hold.

    Raises:
        MalformedRequest: a file cannot be read, or they are not a chain and its key.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        return Path(certificate).read_bytes(), Path(key).read_bytes()
    except (OSError, ValueError) as error:
        raise MalformedRequest(f"the certificate {certificate} and the key {key} cannot be used: {error}") from error


class CertificateFiles:
    """The files of a port's certificate, so that renewing it needs no restart."""

    def __init__(self, certificate: str, key: str) -> None:
        """Read them.

        Raises:
            MalformedRequest: as of `read_certificate`.
        """
        self._paths = (certificate, key)
        self._seen = self._changed_s()
        self.first = read_certificate(certificate, key)

    def renewed(self) -> Certificate | None:
        """Return what the files hold now; None when they are as they were, or do not fit (yet)."""
        now = self._changed_s()
        if now == self._seen:
            return None
        self._seen = now
        try:
            return read_certificate(*self._paths)
        except MalformedRequest as error:
            _log.warning("the certificate is not taken", extra={"action": "renew", "reason": str(error)})
            return None

    def _changed_s(self) -> list[float]:
        return [path.stat().st_mtime if path.exists() else 0.0 for path in map(Path, self._paths)]
