"""Takes out of each record what the log may not hold: a version's redaction is settled once, from the registry.

A version that the registry cannot tell of loses all inputs and outputs: what is not known is not written.
"""

from __future__ import annotations

import logging
from typing import Final

from gateway.core.errors import GatewayError
from gateway.core.privacy import Privacy, Redaction, all_dropped
from gateway.core.records import PredictionRecord
from gateway.ports.stores import RegistryStore

KNOWN_MAX: Final = 4_096  # routes and versions whose redaction is remembered
_log = logging.getLogger(__name__)


class Discretion:
    """One worker's redactions."""

    def __init__(self, privacy: Privacy, registry: RegistryStore) -> None:
        self._privacy = privacy
        self._registry = registry
        self._known: dict[tuple[str, str, str], Redaction | None] = {}

    def __call__(self, record: PredictionRecord) -> PredictionRecord:
        """Return the record as the log may hold it."""
        key = (record.route, record.model, record.version)
        if key not in self._known:
            try:
                self._settle(key)
            except GatewayError as error:
                _log.error(
                    "a version is not known; neither inputs nor outputs are logged",
                    extra={"action": "redact", "route": record.route, "version": record.version, "reason": str(error)},
                )
                return all_dropped(record)
        redaction = self._known[key]
        return record if redaction is None else self._privacy.redacted(record, redaction)

    def _settle(self, key: tuple[str, str, str]) -> None:
        route, model, version = key
        redaction = self._privacy.redaction(route, self._registry.version(model, version))
        if redaction is not None and redaction.unmatched:
            _log.warning(
                "columns that are to be kept from the log are not in a version",
                extra={"action": "redact", "route": route, "version": version, "columns": list(redaction.unmatched)},
            )
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[key] = redaction
