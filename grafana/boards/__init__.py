"""The boards, by file name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.boards import audit, drift, fairness, fleet, monitor, quality, rollout, route

BOARDS: Final[Mapping[str, Callable[[], Dashboard]]] = {
    "fleet": fleet.built,
    "route": route.built,
    "rollout": rollout.built,
    "drift": drift.built,
    "quality": quality.built,
    "fairness": fairness.built,
    "audit": audit.built,
    "monitor": monitor.built,
}
