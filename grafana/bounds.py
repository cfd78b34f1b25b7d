"""What is too much: every bound that a board draws or an alert fires at, once.

A bound is that of the setting or of the constant that it stands for, where there is one, so that a board cannot say anything else
than the gateway. Of a setting it is the default: each panel says so, for whoever set another.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.archive.keeper import FREE_SHARE
from gateway.core.arrivals import ARRIVAL_ALPHA
from gateway.core.drift import PSI_BOUND
from gateway.core.health import DEADLINE_WARNING, ERRORS_CRITICAL, ERRORS_WARNING, LOSS_MARGIN, TRUTHS_MIN
from gateway.core.routes import DEADLINE_MS
from gateway.core.troubles import LAG_S
from gateway.monitor.exercise import FOUND_REQUESTS_MAX
from gateway.settings import Settings

GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "#8e8e8e"
Levels = tuple[tuple[float, str], ...]  # from which value on, which colour
_SET: Final = Settings()

RATE_MIN: Final = 0.05  # requests a second below which a share says nothing: 180 an hour, of which one failure alone is no alert
FAILED_SHARE: Final = ERRORS_WARNING  # the budget: what is left of the objective
BUSY_SHARE: Final = 0.05  # of the requests, refused because the gateway is busy: one caller in twenty notices
ARCHIVE_LAG_S: Final = 12 * _SET.log.segment_age_s  # an hour: a dozen segments wait, where one is usual
TRUTH_LOG_E: Final = -math.log(ARRIVAL_ALPHA)  # from which verdicts on the loss are void

ANY: Final[Levels] = ((1, RED),)
SELDOM: Final[Levels] = ((1, YELLOW),)
FLOWS: Final = 0.001  # a second; less than one in a quarter of an hour is none
FAILED: Final[Levels] = ((FAILED_SHARE, YELLOW), (ERRORS_CRITICAL, RED))
DURATION: Final[Levels] = ((DEADLINE_WARNING * DEADLINE_MS / 1e3, YELLOW), (DEADLINE_MS / 1e3, RED))
WAIT: Final[Levels] = ((_SET.serving.queue_wait_share * DEADLINE_MS / 1e3, RED),)
MEMORY: Final[Levels] = ((_SET.serving.model_memory_bytes_max, RED),)
PSI: Final[Levels] = ((PSI_BOUND, YELLOW), (0.25, RED))  # the usual words for it: a moderate change, and a large one
APART: Final[Levels] = ((0.05, YELLOW), (0.25, RED))  # one value in twenty moves a mean; of one in four the column is broken
WHOLE: Final[Levels] = ((1, GREEN),)  # a share of one, below which something is left out
LAG: Final[Levels] = ((10 * 0.5, YELLOW), (LAG_S, RED))  # half a second is usual
LOG_WRITE: Final[Levels] = ((0.01, YELLOW),)  # seconds; even with an fsync to each, 99 of 100 writes are quicker
ROOM_BYTES: Final = FREE_SHARE * _SET.log.free_bytes_min  # below it the log gives back all that may go
ROOM: Final[Levels] = ((_SET.log.free_bytes_min, YELLOW), (ROOM_BYTES, GREEN))
LOOP_LAG: Final[Levels] = ((0.1, YELLOW),)  # seconds; a person notices
ARCHIVE_LAG: Final[Levels] = ((ARCHIVE_LAG_S, YELLOW),)
SEGMENTS: Final[Levels] = ((_SET.log.bytes_max // _SET.log.segment_bytes_max, RED),)  # full ones that a worker's log has room for
DETECTION: Final[Levels] = ((FOUND_REQUESTS_MAX, RED),)
DRILL_SHARE: Final[Levels] = ((_SET.monitor.drill_share, YELLOW),)
LOSS_BEHIND: Final[Levels] = ((LOSS_MARGIN, YELLOW),)
KNOWN: Final[Levels] = ((TRUTHS_MIN, GREEN),)
WAITING: Final[Levels] = ((0.8 * _SET.monitor.truth_wait_max, YELLOW), (_SET.monitor.truth_wait_max, RED))
TRUTH: Final[Levels] = ((TRUTH_LOG_E / math.log(10), RED),)  # in powers of ten, as it is drawn
