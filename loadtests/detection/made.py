"""Made-up rollouts: how they begin, what a worker would write of a request, and the tests that others use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gateway.core.plans import Plan
from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.rollouts import CHALLENGER, CHAMPION, Rollout, begin
from gateway.core.routes import Route, champion_route

EPOCH_S = 600.0
LOOK_EVERY = 100  # requests between two looks of the test that is looked at again and again
DUMMY_EVERY = 100  # requests of the challenger
TEMPLATE = PredictionRecord(
    prediction_id="", time_s=0.0, kind=Kind.LIVE, model="delays", route="delays", revision=1, assigned=CHAMPION,
    variant=CHAMPION, version="1", digest="", attempts=(), assignment_key="", is_keyed=True, inputs=(), outputs=(),
    batch_rows=1, batch_position=0, runtime_version="", outcome=Outcome.OK, latency_us=500,
)  # fmt: skip


def started(salt: str, plan: Plan) -> tuple[Rollout, Route]:
    """Return a rollout at its first step, begun at time 0, and its route."""
    route = champion_route("delays", "1")
    return begin(route, id="r", challenger="2", plan=plan, salt=salt, now_s=0.0)


def record(assigned: str, key: str, is_fault: bool) -> PredictionRecord:
    """Return a live record; a challenger that fails hard is answered for by the champion."""
    outcome = Outcome.FAILED if is_fault else Outcome.OK
    return replace(
        TEMPLATE,
        assigned=assigned,
        variant=CHAMPION if is_fault else assigned,
        attempts=(Attempt(assigned, "2" if assigned == CHALLENGER else "1", outcome, 400),),
        assignment_key=key,
    )


def z_score(tallies: Sequence[Sequence[int]]) -> float:
    """Return the one-sided two-sample z of (count, bad) for champion and challenger."""
    (n_a, bad_a), (n_b, bad_b) = tallies
    pooled = (bad_a + bad_b) / max(n_a + n_b, 1)
    if not n_a or not n_b or not 0.0 < pooled < 1.0:
        return 0.0
    return (bad_b / n_b - bad_a / n_a) / math.sqrt(pooled * (1.0 - pooled) * (1.0 / n_a + 1.0 / n_b))
