"""Who may ask for predictions, and how much: tokens on the prediction paths, a rate and a daily quota of rows for each.

Off by default, and then nothing of this is asked. Each worker counts for itself and grants its share of a key's limits, so that
no request waits for another process; connections that do not spread evenly reach a limit somewhat early. A restart forgets what
was used of a day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from gateway.core.access import Key, Limits, Principal, Scope, token_digest
from gateway.core.errors import LimitExceeded, NotAuthenticated
from gateway.ports.clock import Clock
from gateway.settings import PredictionTokens

_DAY_S: Final = 86_400.0  # days are UTC's


class Allowance:
    """What one key may still do on this worker."""

    def __init__(self, limits: Limits, *, workers: int, clock: Clock) -> None:
        self.limits = limits
        self._clock = clock
        self._rate = limits.requests_per_s / workers
        self._burst = max((limits.burst or limits.requests_per_s) / workers, 1.0)
        self._requests = self._burst  # that may come at once
        self._filled_s = clock.monotonic_s()
        self._rows_max = math.ceil(limits.rows_per_day / workers)
        self._rows = 0
        self._day = 0.0

    def take_request(self) -> None:
        """Count a request.

        Raises:
            LimitExceeded: it is over the rate.
        """
        if not self._rate:
            return
        now_s = self._clock.monotonic_s()
        self._requests = min(self._requests + (now_s - self._filled_s) * self._rate, self._burst)
        self._filled_s = now_s
        if self._requests < 1.0:
            message = f"over the token's {self.limits.requests_per_s:g} requests a second"
            raise LimitExceeded(message, retry_after_s=(1.0 - self._requests) / self._rate)
        self._requests -= 1.0

    def take_rows(self, rows: int) -> None:
        """Count a request's rows.

        Raises:
            LimitExceeded: there are not so many left today; none are counted.
        """
        if not self._rows_max:
            return
        now_s = self._clock.now_s()
        if now_s // _DAY_S != self._day:
            self._day, self._rows = now_s // _DAY_S, 0
        if self._rows + rows > self._rows_max:
            message = f"over the token's {self.limits.rows_per_day:,} rows a day"
            raise LimitExceeded(message, retry_after_s=_DAY_S - now_s % _DAY_S)
        self._rows += rows


class Callers:
    """The callers of one worker's prediction paths.

    Args:
        keys: Returns every key by its token's digest, as last read.
    """

    def __init__(self, keys: Callable[[], Mapping[str, Key]], *, tokens: PredictionTokens, workers: int, clock: Clock) -> None:
        self._keys = keys
        self._is_required = tokens is PredictionTokens.REQUIRED
        self._workers = workers
        self._clock = clock
        self._allowances: dict[str, Allowance] = {}  # by key id

    def admitted(self, authorization: bytes | None) -> Allowance | None:
        """Count a request and return what its token allows further; None for one without a token where that is allowed.

        Raises:
            NotAuthenticated: a token is missing or not known.
            NotPermitted: it may not predict.
            LimitExceeded: it is over its rate.
        """
        if authorization is None and not self._is_required:
            return None
        keys = self._keys()
        key = bearer_key(authorization, keys)
        Principal(key.name, key.scopes).require(Scope.PREDICT)
        allowance = self._allowances.get(key.id)
        if allowance is None or allowance.limits != key.limits:
            allowance = self._allowances[key.id] = Allowance(key.limits, workers=self._workers, clock=self._clock)
            for gone in self._allowances.keys() - {known.id for known in keys.values()}:
                del self._allowances[gone]
        allowance.take_request()
        return allowance


def bearer_key(authorization: bytes | None, keys: Mapping[str, Key]) -> Key:
    """Return the key whose token an `Authorization` header holds.

    Raises:
        NotAuthenticated: it holds none, or one that is not known.
    """
    scheme, _, token = (authorization or b"").decode("latin-1").partition(" ")
    key = keys.get(token_digest(token.strip())) if scheme.lower() == "bearer" else None
    if key is None:
        raise NotAuthenticated("this needs a valid token: Authorization: Bearer TOKEN")
    return key
