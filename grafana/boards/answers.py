"""What several boards say of predictions: how many, how many failed, how long they took."""

from __future__ import annotations

from typing import Final

from grafana.panels import SPAN, quantile

FAULT: Final = 'outcome!~"ok|abandoned"'  # an abandoned one says nothing of the version: its caller had left


def answered(chosen: str, by: str) -> str:
    """Return predictions a second, shadows left out."""
    return f"sum by ({by}) (rate(gateway_predictions_total{{{_joined(chosen)}}}[{SPAN}]))"


def failed_share(chosen: str, by: str) -> str:
    """Return the share that failed. What never failed has no such series yet: the sum counts it as zero."""
    failed = f"sum by ({by}) (rate(gateway_predictions_total{{{_joined(chosen, FAULT)}}}[{SPAN}]))"
    return f"({failed} or 0 * {answered(chosen, by)}) / ({answered(chosen, by)} > 0)"


def duration(share: float, chosen: str, by: str) -> str:
    """Return a quantile of the time from the last byte of a request to its record."""
    return quantile(share, "gateway_prediction_duration_seconds", chosen, by=by)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in (*parts, 'kind=~"live|pinned"') if part)
