"""An error as callers read it: what it tells of this machine goes to the operator's log instead, and not with every request."""

from __future__ import annotations

import logging
from typing import Final

from gateway.core.errors import ArtifactCorrupt, GatewayError, LoadFailed, LogFailed, LogFull, PortFault
from gateway.ports.clock import Clock
from gateway.serving.answers import Answer
from gateway.web import error_body, error_headers, status_of

_log = logging.getLogger(__name__)
_TELL_S: Final = 10.0  # between two lines about failures outside; they come with every request


class Refusals:
    """The answers of one worker to requests that end in an error."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told_s = -_TELL_S

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
