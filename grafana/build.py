"""Writes the boards and the alert rules: `python -m grafana.build`. They are checked in; a test builds them anew and compares.

Every expression names metrics that a running gateway has; a test runs them all against a real Prometheus.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import panels
from grafana.boards import BOARDS
from grafana.managed import managed
from grafana.rules import rules

HEADER: Final = "# Built by `python -m grafana.build` from grafana/rules.py; what each alert is for stands there.\n"
ALERTS: Final = {"rules/headgate.yml": rules, "provisioning/alerting/headgate.yml": managed}
HERE: Final = Path(__file__).parent


def built() -> dict[str, str]:
    """Return each file's path, from this directory, and its text."""
    alerts = {path: HEADER + yaml.safe_dump(made(), sort_keys=False, width=1_000) for path, made in ALERTS.items()}
    boards = {f"dashboards/{name}.json": panels.built(board).build() for name, board in BOARDS.items()}
    return alerts | {
        path: json.dumps(board, cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n" for path, board in boards.items()
    }


if __name__ == "__main__":
    for path, text in built().items():
        (HERE / path).write_text(text)
