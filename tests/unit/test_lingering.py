"""Which series a scrape shows of versions and routes that left the table."""

from __future__ import annotations

from gateway.control.lingering import LINGER_S, Lingering
from gateway.core.routes import Route, RouteTable, Variant
from gateway.metrics.catalogue import METRICS
from gateway.ports.metrics import Sample

TABLE = RouteTable(routes={"delays": Route("delays", "m", (Variant("champion", "2", 10_000),))}, champions={"fares": "1"})


def counted(route: str, version: str, value: float = 1.0) -> Sample:
    """Return a count of one version on one route."""
    return Sample("gateway_predictions_total", (("route", route), ("variant", "v"), ("version", version)), value)


STAYS = (
    counted("delays", "2"),
    counted("fares", "1"),
    Sample("gateway_drift_psi_max", (("route", "delays"),), 0.1),
    Sample("gateway_monitor_lag_seconds", (), 0.1),
    Sample("gateway_rejected_requests_total", (("route", ""), ("reason", "UnknownRoute")), 1.0),
)
LEAVES = (counted("delays", "1"), counted("gone", "1"), Sample("gateway_drift_psi_max", (("route", "gone"),), float("nan")))


def shown(lingering: Lingering, now_s: float, *samples: Sample) -> list[Sample]:
    """Return what one process's samples come down to."""
    return list(lingering.shown({"w0": samples}, TABLE, now_s)["w0"])


def test_series_of_what_left_stay_for_an_hour_and_go():
    """What is on the table is always shown; what left it is for an hour after it was last counted."""
    lingering = Lingering()
    assert shown(lingering, 0.0, *STAYS, *LEAVES) == [*STAYS, *LEAVES]
    assert shown(lingering, LINGER_S - 1.0, *STAYS, *LEAVES) == [*STAYS, *LEAVES]
    assert set(shown(lingering, LINGER_S, *STAYS, *LEAVES)) >= set(STAYS)
    assert not {counted("delays", "1"), counted("gone", "1")} & set(shown(lingering, LINGER_S, *STAYS, *LEAVES))


def test_series_of_what_is_still_called_stay():
    """A version that callers name although no route does is shown while they call, and comes back when they do again."""
    lingering = Lingering()
    for turn in range(4):
        pinned = counted("delays", "1", value=float(turn))
        assert shown(lingering, turn * LINGER_S, pinned) == [pinned]
    last = counted("delays", "1", value=3.0)
    assert shown(lingering, 4 * LINGER_S, last) == []
    again = counted("delays", "1", value=4.0)
    assert shown(lingering, 4 * LINGER_S + 1.0, again) == [again]


def test_metrics_name_their_owner_first():
    """What a series belongs to is its first label, so that it can be left out when that is gone."""
    for metric in METRICS:
        if {"route", "model", "version", "variant"} & set(metric.labels):
            assert metric.labels[0] in {"route", "model"}, metric.name
