"""What several boards say of predictions: how many, how many failed or were refused, how long they took."""

from __future__ import annotations

from typing import Final

from gateway.core.errors import UNRECORDED_REFUSALS
from grafana.panels import OF_ROUTE, SPAN, quantile
from grafana.refused import refused

FAULT: Final = 'outcome!~"ok|abandoned"'  # an abandoned one says nothing of the version: its caller had left


def answered(chosen: str, by: str) -> str:
    """Return predictions a second, shadows left out."""
    return f"sum by ({by}) (rate(gateway_predictions_total{{{_joined(chosen)}}}[{SPAN}]))"


def failed_share(chosen: str, by: str) -> str:
    """Return the share of answers that failed. What never failed has no such series yet: the sum counts it as zero."""
    failed = f"sum by ({by}) (rate(gateway_predictions_total{{{_joined(chosen, FAULT)}}}[{SPAN}]))"
    return f"({failed} or 0 * {answered(chosen, by)}) / ({answered(chosen, by)} > 0)"


def unserved_share(by: str) -> str:
    """Return the share of the chosen routes' requests that failed, or that the gateway refused for reasons of its own."""
    failed = f"rate(gateway_predictions_total{{{_joined(OF_ROUTE, FAULT)}}}[{SPAN}])"
    return f"(sum by ({by}) ({failed} or rate({_REFUSED}[{SPAN}])) or 0 * {asked(by)}) / ({asked(by)} > 0)"


def refused_share() -> str:
    """Return the share that the gateway refused for reasons of its own, by route and reason; of none that there is none."""
    none = f'label_replace(0 * {asked("route")}, "reason", "none", "", "")'
    return f"(sum by (route, reason) (rate({_REFUSED}[{SPAN}])) or {none}) / on (route) group_left () ({asked('route')} > 0)"


def asked(by: str) -> str:
    """Return the chosen routes' requests a second: answers, and refusals for reasons of the gateway's own."""
    answers = f"rate(gateway_predictions_total{{{_joined(OF_ROUTE)}}}[{SPAN}])"
    return f"sum by ({by}) ({answers} or rate({refused(UNRECORDED_REFUSALS, chosen=_CHOSEN)}[{SPAN}]))"


_CHOSEN: Final = f'{OF_ROUTE}, route!=""'
_REFUSED: Final = refused(chosen=_CHOSEN)


def duration(share: float, chosen: str, by: str) -> str:
    """Return a quantile of the time from the last byte of a request to its record."""
    return quantile(share, "gateway_prediction_duration_seconds", chosen, by=by)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in (*parts, 'kind=~"live|pinned"') if part)
