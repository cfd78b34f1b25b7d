"""Tokens, rates and quotas of the callers of one worker, on a clock that the test moves."""

from __future__ import annotations

import pytest

from adapters.memory import ManualClock
from gateway.core.access import UNLIMITED, Key, Limits, Scope, limits_from_body, token_digest
from gateway.core.errors import LimitExceeded, MalformedRequest, NotAuthenticated, NotPermitted
from gateway.serving.limits import Allowance, Callers
from gateway.settings import PredictionTokens

DAY_S = 86_400.0


def callers(*keys: Key, tokens: PredictionTokens = PredictionTokens.REQUIRED) -> Callers:
    """Return the callers of one worker that knows these keys."""
    known = {key.token_sha256: key for key in keys}
    return Callers(lambda: known, tokens=tokens, workers=1, clock=ManualClock())


def key(*scopes: Scope, limits: Limits = UNLIMITED) -> Key:
    """Return the key of the token `secret`."""
    return Key("k1", "backend", token_digest("secret"), frozenset(scopes), 0.0, limits)


def test_rate_fills_again_with_time():
    """A burst is there at once; then as many as the rate gives, and the refusal says when the next is due."""
    clock = ManualClock()
    allowance = Allowance(Limits(requests_per_s=2.0, burst=3), workers=1, clock=clock)
    for _ in range(3):
        allowance.take_request()
    with pytest.raises(LimitExceeded) as refused:
        allowance.take_request()
    assert refused.value.retry_after_s == pytest.approx(0.5)
    clock.move(0.5)
    allowance.take_request()
    clock.move(60.0)
    for _ in range(3):
        allowance.take_request()
    with pytest.raises(LimitExceeded):
        allowance.take_request()


def test_quota_of_rows_ends_with_the_day():
    """What does not fit into the rest of a day is refused whole until midnight, UTC."""
    clock = ManualClock(5 * DAY_S + 100.0)
    allowance = Allowance(Limits(rows_per_day=10), workers=1, clock=clock)
    allowance.take_rows(8)
    with pytest.raises(LimitExceeded) as refused:
        allowance.take_rows(3)
    assert refused.value.retry_after_s == pytest.approx(DAY_S - 100.0)
    allowance.take_rows(2)
    clock.move(DAY_S)
    allowance.take_rows(10)


def test_worker_grants_its_share():
    """Of two workers each grants half, and a slow rate still lets one request through."""
    allowance = Allowance(Limits(requests_per_s=10.0, rows_per_day=7), workers=2, clock=ManualClock())
    for _ in range(5):
        allowance.take_request()
    with pytest.raises(LimitExceeded):
        allowance.take_request()
    allowance.take_rows(4)
    with pytest.raises(LimitExceeded):
        allowance.take_rows(1)
    Allowance(Limits(requests_per_s=0.1), workers=2, clock=ManualClock()).take_request()


def test_token_without_limits_has_none():
    """Zero is without limit."""
    allowance = callers(key(Scope.PREDICT)).admitted(b"Bearer secret")
    assert allowance is not None
    for _ in range(1_000):
        allowance.take_request()
        allowance.take_rows(1_000_000)


def test_token_is_needed_only_where_it_is_required():
    """An optional token may be missing; one that is sent must be known either way."""
    assert callers(key(Scope.PREDICT), tokens=PredictionTokens.OPTIONAL).admitted(None) is None
    with pytest.raises(NotAuthenticated):
        callers(key(Scope.PREDICT)).admitted(None)
    for tokens in (PredictionTokens.OPTIONAL, PredictionTokens.REQUIRED):
        with pytest.raises(NotAuthenticated):
            callers(key(Scope.PREDICT), tokens=tokens).admitted(b"Bearer other")


def test_token_needs_the_scope_to_predict():
    """Another scope is not enough; the admin token may do everything."""
    with pytest.raises(NotPermitted):
        callers(key(Scope.READ, Scope.PREDICTIONS)).admitted(b"Bearer secret")
    assert callers(key(Scope.ADMIN)).admitted(b"Bearer secret") is not None


def test_limits_of_one_token_are_not_anothers():
    """A caller over its rate costs the others nothing."""
    slow, other = (
        key(Scope.PREDICT, limits=Limits(requests_per_s=1.0)),
        Key("k2", "b", token_digest("t"), frozenset({Scope.PREDICT}), 0.0),
    )
    both = callers(slow, other)
    both.admitted(b"Bearer secret")
    with pytest.raises(LimitExceeded):
        both.admitted(b"Bearer secret")
    both.admitted(b"Bearer t")


@pytest.mark.parametrize("body", [{"burst": 5}, {"requests_per_s": -1}, {"rows_per_day": 0.5}, {"rows": 1}, []])
def test_limits_that_make_no_sense_are_refused(body):
    """A burst without a rate, a negative or broken number and an unknown name are told."""
    with pytest.raises(MalformedRequest):
        limits_from_body(body, "body.limits")
