"""The worker's own rule against a version that fails: k hard faults among its last n attempts take it out of rotation here.

It needs neither the monitor nor the registry, so that a broken version is left within a few requests even when both are down.
After a rest one request probes the version; its answer decides. The first rests are short, because probes are all that the
monitor learns of a version that rests; each failure after another doubles them, so that few callers wait for a failover.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable


class FaultWindow:
    """One version's last attempts on this worker; `rested` is called each time the rule takes it out.

    Args:
        window, faults_max: n and k.
        rest_first_s: Of a version that was sound; each failed probe, and each fall back into rest, doubles it…
        rest_s: …up to this. So long in rotation makes a version sound again.
    """

    def __init__(self, *, window: int, faults_max: int, rest_first_s: float, rest_s: float, rested: Callable[[], None]) -> None:
        self._recent: deque[bool] = deque(maxlen=window)
        self._faults_max = faults_max
        self._rest_first_s = min(rest_first_s, rest_s)
        self._rest_max_s = rest_s
        self._rested = rested
        self._next_rest_s = self._rest_first_s
        self._rest_until_s: float | None = None
        self._back_s = -math.inf  # when a probe last brought the version back
        self._is_probing = False

    def admits(self, now_s: float) -> bool:
        """Return whether a request may try the version; of a version that rests, one after each rest.

        While that one runs no other may, unless it has been so for the longest rest: then it ended without saying anything.
        """
        if self._rest_until_s is None:
            return True
        if now_s < self._rest_until_s:
            return False
        self._rest_until_s = now_s + self._rest_max_s
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
                if is_fault:
                    self._rest(now_s)
                else:
                    self._rest_until_s, self._back_s = None, now_s
            return
        self._recent.append(is_fault)
        if is_fault and sum(self._recent) >= self._faults_max:
            self._recent.clear()
            if now_s - self._back_s >= self._rest_max_s:
                self._next_rest_s = self._rest_first_s
            self._rest(now_s)
            self._rested()

    def _rest(self, now_s: float) -> None:
        self._rest_until_s = now_s + self._next_rest_s
        self._next_rest_s = min(2.0 * self._next_rest_s, self._rest_max_s)
