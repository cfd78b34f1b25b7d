"""What the processes of pickled models may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """What the processes of pickled models may use; see `PickledSettings` for the reasons.

    Attributes:
        confinement: `require`, `warn` or `off`.
        scratch: A directory of this process alone; every instance writes in one of its own below.
    """

    confinement: str
    scratch: Path
    memory_bytes: int
    cores: int
    niceness: int
    scratch_file_bytes_max: int
    message_bytes_max: int
    load_timeout_s: float
    predict_timeout_s: float
