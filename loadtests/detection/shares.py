"""Sample ratio mismatch: how soon is a split that is not the planned one found, and how often one that is?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gateway.core.evidence import ShareTest, Side
from loadtests.detection.lines import Asked, Line, delay_line, judged, share_text, upper_limit

PLANNED, REAL = 0.10, 0.11
KEYS = 20_000  # of a split as planned…
KEYS_MAX = 200_000  # …and of one that is not, after which it counts as missed
LOOK_EVERY = 1_000  # keys between two looks of the fixed test
Z = 3.29  # two-sided .001, the test's own alpha, which holds for a single look


def mismatch(share: float, keys: int, seed: int) -> tuple[float, float]:
    """Return after how many keys the test, and the fixed test looked at again and again, find a mismatch; infinite if never."""
    rng = np.random.default_rng([seed, round(share * 1_000)])
    test, seen, challengers, peeked = ShareTest(), 0, 0, math.inf
    while seen < keys:
        for is_challenger in (rng.random(LOOK_EVERY) < share).tolist():
            test.observe(str(seen), Side.CHALLENGER if is_challenger else Side.CHAMPION, PLANNED)
            seen, challengers = seen + 1, challengers + is_challenger
        deviation = math.sqrt(seen * PLANNED * (1.0 - PLANNED))
        if peeked == math.inf and abs(challengers - seen * PLANNED) > Z * deviation:
            peeked = seen
        if test.reading().is_mismatch:
            return seen, peeked
    return math.inf, peeked


def share_lines(asked: Asked) -> Iterator[Line]:
    """Yield how a mismatch is found and how often one that is none."""
    runs = asked.of(3, 100, 500)
    found, peeked = zip(*asked.pool.map(mismatch, [REAL] * runs, [KEYS_MAX] * runs, asked.seeds(runs), chunksize=5), strict=True)
    yield delay_line(f"{PLANNED:.0%} planned, {REAL:.0%} real: keys", found, 20_000.0, f"{sorted(peeked)[runs // 2]:.0f}")
    runs = asked.of(10, 3_000, 10_000)
    keys = asked.of(2_000, KEYS, KEYS)
    null = list(asked.pool.map(mismatch, [PLANNED] * runs, [keys] * runs, asked.seeds(runs), chunksize=20))
    wrong, wrongly_peeked = (sum(one < math.inf for one in column) for column in zip(*null, strict=True))
    kept = judged(wrong <= 0.001 * runs, is_sure=upper_limit(wrong, runs) <= 0.003)
    what = f"as planned, {keys:,} keys: found"
    yield Line(what, "≤ .1%, surely ≤ .3%", share_text(wrong, runs), f"{wrongly_peeked / runs:.1%}", kept)
