"""Where a stream's time stands, so that it never falls across a restart of its worker."""

from __future__ import annotations

from gateway.ports.log import PredictionLogReader


def resumed_s(log: PredictionLogReader, stream: str) -> float:
    """Return the time of a stream's last record, or 0 when it has none."""
    records = log.read_before(stream, log.end(stream), 1).records
    return records[-1][1].time_s if records else 0.0
