"""Makes the made-up world importable beside the tests, which pytest does not do by itself, and reads its past again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapters.archives.duck import DuckArchive
from adapters.detectors.river import AdwinDetector
from adapters.logs.codec import decode
from gateway.replay.past import Past

sys.path.insert(0, str(Path(__file__).parent))
if TYPE_CHECKING:
    from test_monitor import Scene


@pytest.fixture
def past_of(tmp_path) -> Callable[[Scene], Past]:
    """Return what a replay reads of a scene."""

    def past(scene: Scene) -> Past:
        return Past(
            archive=DuckArchive(tmp_path / "archive", memory_bytes=2**28),
            log=scene.log,
            registry=scene.registry,
            artifacts=None,
            runtimes={},
            detector=AdwinDetector,
            decode=decode,
            monitor=scene.settings.monitor,
        )

    return past
