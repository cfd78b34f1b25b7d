"""The access log: who asked to see what over the admin port, one event a line of the journal, whatever came of it.

Changes stand in the audit log. Probes and scrapes need no token and stand in neither. What was asked is told, and no answer.
"""

from __future__ import annotations

import logging
from typing import Final

from starlette.requests import Request

from gateway.control.calls import Operation
from gateway.core.access import Principal, Scope
from gateway.settings import AccessLog

ASKED_MAX: Final = 2_000  # characters of a path, a query or a body: most questions in SQL whole
_journal = logging.getLogger(__name__)


class Reads:
    """Notes reads as far as the setting `control.access_log` says."""

    def __init__(self, told: AccessLog) -> None:
        self._told = told

    def are_told(self, operation: Operation) -> bool:
        """Return whether an operation is a read that is noted."""
        if self._told is not AccessLog.ALL:
            return self._told is AccessLog.PREDICTIONS and operation.scope is Scope.PREDICTIONS
        return operation.scope in (Scope.READ, Scope.PREDICTIONS) or (operation.method == "GET" and operation.scope is not None)

    @property
    def are_pages_told(self) -> bool:
        """Whether looking at the status page is noted, and trying to."""
        return self._told is AccessLog.ALL

    def note(self, name: str, request: Request, status: int) -> None:
        """Write one event: who, what, and the status that it was answered with."""
        asked = getattr(request.state, "asked", b"").decode(errors="replace")[:ASKED_MAX]
        facts = {
            "action": name,
            "principal": getattr(request.state, "principal", ""),
            "path": request.url.path[:ASKED_MAX],
            "query": request.url.query[:ASKED_MAX],
            "status": status,
        }
        _journal.info("read", extra={**facts, "asked": asked} if asked else facts)


def seen_as(request: Request, principal: Principal) -> None:
    """Remember who asks, for the note that is written in the end."""
    request.state.principal = principal.name


def asked_with(request: Request, content: bytes) -> None:
    """Remember the body of a request, likewise."""
    request.state.asked = content
