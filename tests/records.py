"""A prediction's record for tests: everything has a default but the point."""

from __future__ import annotations

from typing import Any

from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord


def numbered_id(number: int) -> str:
    """Return a prediction id that says its number."""
    return f"018bcfe5-6800-7000-8000-{number:012x}"


def prediction(*, variant: str = "champion", version: str = "1", outcome: Outcome = Outcome.OK, **more: Any) -> PredictionRecord:
    """Return the record of a live answer of one row, with `more` of its fields; one attempt of the variant unless they say."""
    values: dict[str, Any] = {
        "prediction_id": numbered_id(1),
        "time_s": 0.0,
        "kind": Kind.LIVE,
        "model": "delays",
        "route": "delays",
        "revision": 1,
        "assigned": variant,
        "digest": "0" * 64,
        "attempts": (Attempt(variant, version, outcome, 20),),
        "assignment_key": "0123456789abcdef",
        "is_keyed": True,
        "inputs": (),
        "outputs": (),
        "batch_rows": 1,
        "batch_position": 0,
        "runtime_version": "1",
        "latency_us": 100,
    }
    return PredictionRecord(variant=variant, version=version, outcome=outcome, **(values | more))
