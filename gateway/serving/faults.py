"""The worker's own rule against a version that fails: k hard faults among its last n attempts take it out of rotation here.

It needs neither the monitor nor the registry, so that a broken version is left within a few requests even when both are down.
After a rest one request probes the version; its answer decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class FaultWindow:
    """One version's last attempts on this worker; `rested` is called each time the rule takes it out."""

    def __init__(self, *, window: int, faults_max: int, rest_s: float, rested: Callable[[], None]) -> None:
        self._recent: deque[bool] = deque(maxlen=window)
        self._faults_max = faults_max
        self._rest_s = rest_s
        self._rested = rested
        self._rest_until_s: float | None = None
        self._is_probing = False

    def admits(self, now_s: float) -> bool:
        """Return whether a request may try the version; while it rests, one may after each `rest_s`."""
        if self._rest_until_s is None:
            return True
        if now_s < self._rest_until_s:
            return False
        self._rest_until_s = now_s + self._rest_s
        self._is_probing = True
        return True

    def is_resting(self, now_s: float) -> bool:
        """Return whether `admits` would refuse a request now; asking changes nothing."""
        return self._rest_until_s is not None and now_s < self._rest_until_s

    def note(self, *, is_fault: bool, now_s: float) -> None:
        """Count an attempt's end; while the version rests only the probe's counts, the others began before."""
        if self._rest_until_s is not None:
            if self._is_probing:
                self._is_probing = False
                self._rest_until_s = now_s + self._rest_s if is_fault else None
            return
        self._recent.append(is_fault)
        if is_fault and sum(self._recent) >= self._faults_max:
            self._recent.clear()
            self._rest_until_s = now_s + self._rest_s
            self._rested()
