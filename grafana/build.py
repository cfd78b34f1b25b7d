"""Writes the boards and the alert rules: `python -m grafana.build`. They are checked in; a test builds them anew and compares.

Every expression names metrics that a running gateway has; a test runs them all against a real Prometheus.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.boards import BOARDS

HERE: Final = Path(__file__).parent


def built() -> dict[str, str]:
    """Return each file's path, from this directory, and its text."""
    boards = {f"dashboards/{name}.json": made() for name, made in BOARDS.items()}
    return {
        path: json.dumps(board.build(), cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n" for path, board in boards.items()
    }


if __name__ == "__main__":
    for path, text in built().items():
        (HERE / path).write_text(text)
