"""When an instance's next process may start: at once after a death, later after each that follows."""

from __future__ import annotations

from typing import Final

_CALM_S: Final = 60.0  # without a death, earlier ones are forgotten
_BACKOFF_S: Final = 0.1  # the second replacement's pause; the first has none
_BACKOFF_MAX_S: Final = 30.0  # serving tries a resting version as often


class Deaths:
    """The deaths of one instance's processes.

    Attributes:
        count: Without a calm between them.
        start_at_s: When the next process may start, on the monotonic clock.
        has_started: Whether one did when the last one was to.
    """

    def __init__(self) -> None:
        self.count = 0
        self.start_at_s = 0.0
        self.has_started = True
        self._last_s = 0.0

    def note(self, now_s: float) -> None:
        """Count one."""
        self.count = 1 if now_s - self._last_s > _CALM_S else self.count + 1
        self._last_s = now_s
        pause_s = 0.0 if self.count == 1 else min(_BACKOFF_S * 2 ** min(self.count - 2, 30), _BACKOFF_MAX_S)
        self.start_at_s = now_s + pause_s
