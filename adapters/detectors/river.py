"""River's ADWIN behind the `Detector` port: has the mean of one signal in [0, 1] changed?

The only file that names River. What the port promises about its input is asserted here, because ADWIN does not complain: after
one NaN it never detects again, and on a scale other than about 1 it detects nothing or everything. The caller maps each
feature through its training quantiles first, and feeds the spread as a second signal, since ADWIN sees the mean alone.
Page-Hinkley is not offered: its defaults raise 63 false alarms per 100,000 standard normal values and thousands on a larger
scale, and its fading sum has no stated false-alarm rate.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, Final

from river.drift import ADWIN

from gateway.ports.readings import Reading

DELTA: Final = 0.002  # River's own: no false alarm in 10 million independent uniform values; +0.5σ is found after about 150
CLOCK: Final = 8  # values between two checks; 32 (River's own) finds a large shift up to 31 values later, 1 costs twice the time


_PROMISE: Final = "a detector never sees NaN or an unscaled value"


class AdwinDetector:
    """ADWIN over one signal."""

    def __init__(self, signals: int = 1) -> None:
        """Watch one of so many signals, which share what one alone may raise of false alarms."""
        self._adwin: Any = ADWIN(delta=DELTA / signals, clock=CLOCK)  # type: ignore[no-untyped-call]

    def update(self, values: Sequence[float]) -> Reading:
        """Take values in [0, 1] and return the window's mean and how many of them raised the alarm.

        After an alarm ADWIN begins anew with the following value and learns the drifted values as normal.
        """
        assert not values or _are_in_range(values), _PROMISE
        adwin, alarm_count = self._adwin, 0
        following = iter(values)
        for first in following:
            adwin.update(first)  # River's own, which begins anew after an alarm and then does what `_follow` does
            alarm_count += adwin.drift_detected or _follow(adwin, following)
        return Reading(adwin.total / adwin.width, alarm_count)  # the window holds at least the last value

    def state(self) -> bytes:
        """Return everything needed to go on exactly, about 1.4 kB; of what River keeps around the window, which takes three times
        as long to read as the window itself, only the flag."""
        adwin = self._adwin
        return pickle.dumps((adwin.drift_detected, adwin._helper), protocol=pickle.HIGHEST_PROTOCOL)  # noqa: SLF001

    def restore(self, state: bytes) -> None:
        """Go on from another's `state`, which only ever comes from the gateway's own checkpoint."""
        saved = pickle.loads(state)  # noqa: S301
        assert isinstance(saved, tuple), "the state of another kind of detector"
        self._adwin._drift_detected, self._adwin._helper = saved  # noqa: SLF001


def _follow(adwin: Any, following: Iterator[float]) -> bool:
    """Feed values up to the one that raises an alarm, and return whether one did.

    River's `update` looks at the flag before each value and passes it on through two more calls, which takes as long again.
    """
    if not any(map(adwin._helper.update, following)):  # noqa: SLF001 - takes values up to the first that raises one
        return False
    adwin._drift_detected = True  # noqa: SLF001
    return True


def _are_in_range(values: Sequence[float]) -> bool:
    """Return whether all values lie in [0, 1]; of a NaN neither the least nor the greatest tells, but the sum."""
    return min(values) >= 0.0 and max(values) <= 1.0 and not math.isnan(sum(values))
