"""An error as callers read it: what it tells of this machine goes to the operator's log instead, and not with every request.

Every refusal counts under the route that a live prediction was asked of, so that a route that answers nobody is seen among many.
"""

from __future__ import annotations

import logging
from typing import Final

from gateway.core.errors import ArtifactCorrupt, GatewayError, LoadFailed, LogFailed, LogFull, PortFault
from gateway.metrics.metric import cell
from gateway.metrics.serving import REJECTED
from gateway.ports.clock import Clock
from gateway.ports.metrics import MetricsBank
from gateway.serving.answers import Answer
from gateway.serving.routing import Router
from gateway.web import error_body, error_headers, status_of

_log = logging.getLogger(__name__)
_TELL_S: Final = 10.0  # between two lines about failures outside; they come with every request


class Refusals:
    """The answers of one worker to requests that end in an error."""

    def __init__(self, *, router: Router, metrics: MetricsBank, clock: Clock) -> None:
        self._router = router
        self._metrics = metrics
        self._clock = clock
        self._told_s = -_TELL_S

    def count(self, error: GatewayError, route: str = "", version: str = "") -> None:
        """Count one refusal.

        Args:
            route: The name that a prediction was asked of, as the caller wrote it: one that is not known is not counted by.
            version: The one that the caller named. Such a request says nothing of what the route answers, and may be anybody's.
        """
        is_live = not version and self._router.table.table.knows(route)
        cell(self._metrics, REJECTED, route if is_live else "", type(error).__name__).add(1.0)

    def answer(self, error: GatewayError) -> Answer:
        """Return the answer of an error."""
        return Answer(status_of(error), error_headers(error), error_body(self.told(error)))

    def told(self, error: GatewayError) -> GatewayError:
        """Return an error as callers read it."""
        told = _told(error)
        if told is not error and (now_s := self._clock.monotonic_s()) - self._told_s >= _TELL_S:
            self._told_s = now_s
            _log.error("requests are refused", extra={"action": "answer", "reason": str(error)})
        return told


def _told(error: GatewayError) -> GatewayError:
    """Return an error as callers read it: reasons from outside the program name files, which are no business of theirs."""
    match error:
        case LogFull():
            return LogFull("the prediction log is full")
        case LogFailed():
            return LogFailed("the prediction log cannot be written")
        case PortFault():
            return PortFault("the gateway's storage cannot be read or written")
        case LoadFailed() | ArtifactCorrupt():
            return LoadFailed("the version failed to load")
        case _:
            return error
