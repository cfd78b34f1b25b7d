"""Every error of the gateway, in one tree.

The first level says whose fault it is, because a caller's bad tensor must never count against a version:

GatewayError
├─ Rejected      the caller's fault    MalformedRequest, SignatureMismatch, PayloadTooLarge, Unknown…, NotValid, PoisonousInput
├─ Denied        the caller's rights   NotAuthenticated, NotPermitted, LimitExceeded
├─ Conflict      someone was first     RevisionConflict, VersionExists, VersionNeeded, IllegalTransition, BudgetSpent, …
├─ Busy          ours, for now         PoolSaturated, Overloaded, NotReady, DeadlineExceeded
├─ ModelFault    the version's         LoadFailed, PredictFailed (ProcessDied), OutputMismatch, ArtifactCorrupt
└─ PortFault     the outside's         StoreFailed, LogFailed (LogFull), ArchiveFailed, DeliveryFailed

Only `ModelFault` (and a deadline missed inside `predict`) counts against a version. Status codes live in
`gateway/web/__init__.py`.
"""

from __future__ import annotations

from typing import Final

MESSAGE_LENGTH_MAX = 1_000  # characters; some say again what a caller sent, and gRPC's own bound is 8 KiB of headers


class GatewayError(Exception):
    """The root. `hint` says what an operator can do, where there is something to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message if len(message) <= MESSAGE_LENGTH_MAX else message[: MESSAGE_LENGTH_MAX - 1] + "…"
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Rejected(GatewayError):
    """The request cannot be served as it is; sending it again changes nothing."""


class MalformedRequest(Rejected):
    """The body, a header or a parameter is not of the documented form."""


class SignatureMismatch(Rejected):
    """The tensors do not fit the version's signature."""


class PayloadTooLarge(Rejected):
    """The body is over the configured bound."""


class BodyStalled(Rejected):
    """The body did not arrive within its time."""


class UnsupportedEncoding(Rejected):
    """The body's content encoding is not one that is read here."""


class NotOffered(Rejected):
    """A feature of the protocol that this gateway does not have."""


class UnknownRoute(Rejected):
    """No route and no model has that name."""


class UnknownVersion(Rejected):
    """The model has no version of that name."""


class UnknownSubject(Rejected):
    """No such model, rollout, key, prediction or quarantine."""


class NotValid(Rejected):
    """The uploaded version failed validation; nothing was registered."""


class PoisonousInput(Rejected):
    """A process that ran the version died of this input."""


class Denied(GatewayError):
    """The caller may not do this."""


class NotAuthenticated(Denied):
    """No valid token was sent."""


class NotPermitted(Denied):
    """The token lacks the scope."""


class LimitExceeded(Denied):
    """The token's rate or quota is used up; there is more after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Conflict(GatewayError):
    """The state moved on; read it again and decide anew."""


class RevisionConflict(Conflict):
    """The route's revision is not the expected one."""


class VersionExists(Conflict):
    """The version's name is taken; versions are immutable."""


class IllegalTransition(Conflict):
    """The rollout's state does not allow this event."""


class BudgetSpent(Conflict):
    """The route has no chance of a false rollback left for another rollout this year."""


class VersionNeeded(Conflict):
    """A route or a model answers with the version; it cannot be unloaded."""


class Quarantined(Conflict):
    """The digest is in quarantine; no rollout may use it until it is released."""


class Busy(GatewayError):
    """Not now; the same request may succeed after `retry_after_s`."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class PoolSaturated(Busy):
    """The version's queue is full."""


class Overloaded(Busy):
    """What waits for the version would take longer than the request may wait."""


class NotReady(Busy):
    """The version or the process is not warm yet, or draining."""


class DeadlineExceeded(Busy):
    """The request's deadline passed before it was executed."""


class ModelFault(GatewayError):
    """The version failed; this is the only class of error that counts against it."""


class LoadFailed(ModelFault):
    """The artifact does not load."""


class PredictFailed(ModelFault):
    """The runtime raised while predicting."""


class ProcessDied(PredictFailed):
    """The process that ran the version died or hung while it predicted; the worker lives."""


class OutputMismatch(ModelFault):
    """The outputs do not fit the version's own signature."""


class ArtifactCorrupt(ModelFault):
    """The bytes do not have the digest they are stored under."""


class PortFault(GatewayError):
    """Something outside the program failed."""


class StoreFailed(PortFault):
    """The registry, the artifact store or a checkpoint could not be read or written."""


class LogFailed(PortFault):
    """The prediction log could not be written or read."""


class LogFull(LogFailed):
    """The log has no room left; nothing was written."""


class ArchiveFailed(PortFault):
    """The archive could not be written or queried."""


class DeliveryFailed(PortFault):
    """A notice was not taken by the channel it was sent to."""


OWN_REFUSALS: Final[tuple[type[GatewayError], ...]] = (  # of a prediction, for which neither its caller nor the load is to blame
    NotReady,
    LoadFailed,
    ArtifactCorrupt,
    StoreFailed,
    LogFailed,
    LogFull,
)
UNRECORDED_REFUSALS: Final = tuple(kind for kind in OWN_REFUSALS if not issubclass(kind, LogFailed))  # not counted as predictions
