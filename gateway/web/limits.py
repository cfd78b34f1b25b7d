"""What a connection may take of a worker's time and room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BYTES_PER_S_MIN: Final = 16 * 1024  # of a whole body or answer, beyond `body_timeout_s`; a slow line, and no dripping tap


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection; see `ServingSettings` for the reasons."""

    header_timeout_s: float
    body_timeout_s: float
    keep_alive_s: float
    connections_max: int
