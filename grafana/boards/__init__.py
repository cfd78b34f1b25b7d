"""The boards, by file name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from grafana.boards import audit, drift, fairness, fleet, monitor, quality, rollout, route
from grafana.panels import Board

BOARDS: Final[Mapping[str, Board]] = {
    "fleet": fleet.BOARD,
    "route": route.BOARD,
    "rollout": rollout.BOARD,
    "drift": drift.BOARD,
    "quality": quality.BOARD,
    "fairness": fairness.BOARD,
    "audit": audit.BOARD,
    "monitor": monitor.BOARD,
}
