"""How often each route refused its callers in the last minutes for reasons of the gateway's own, as the workers count it.

A refusal has no record, so the monitor never sees it: a route whose version does not load may refuse everybody, and the log does
not say so. Counts are read every `STEP_S`; what was refused before the first reading, or while nobody read, is not known. What
was read is kept for a successor of the process, so that a route is not well again because control died.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import orjson

from gateway.core.errors import OWN_REFUSALS, UNRECORDED_REFUSALS
from gateway.core.health import RefusalFacts
from gateway.core.records import Kind
from gateway.metrics.serving import PREDICTIONS, REJECTED
from gateway.ports.clock import Clock
from gateway.ports.metrics import Sample
from gateway.ports.stores import CheckpointStore

CONSUMER: Final = "refusals"
SPAN_S: Final = 300.0  # the short window of the alert that pages for the same
STEP_S: Final = 10.0  # what is refused is seen so soon; a reading takes some 0.1 s with 1,000 routes
_OWN: Final = frozenset(kind.__name__ for kind in OWN_REFUSALS)
_UNRECORDED: Final = frozenset(kind.__name__ for kind in UNRECORDED_REFUSALS)
_journal = logging.getLogger(__name__)
_Count = tuple[str, str]  # a route, and a reason or nothing for its predictions
_Series = tuple[str, str, tuple[tuple[str, str], ...]]  # a process, a metric and its labels


class Refusals:
    """What was counted since the first reading, up to `SPAN_S` back. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[_Series, float] | None = None
        self._began_s = 0.0  # when the first reading was taken
        self._steps: deque[tuple[float, Counter[_Count]]] = deque()

    def take(self, snapshots: Mapping[str, Sequence[Sample]], now_s: float) -> None:
        """Take in a reading of every process's numbers.

        Args:
            now_s: Of the monotonic clock.
        """
        with self._lock:
            last, seen, step = self._last, {}, Counter[_Count]()
            for series, count, value in _counted(snapshots):
                seen[series] = value
                if last is not None and value != (before := last.get(series, 0.0)):
                    step[count] += int(value - before if value > before else value)  # less: its file was written anew
            self._began_s = self._began_s if self._steps else now_s
            self._last = seen
            self._steps.append((now_s, step))
            while now_s - self._steps[0][0] >= SPAN_S:
                self._steps.popleft()

    def keep(self, checkpoints: CheckpointStore, clock: Clock) -> None:
        """Save what was refused; while nothing was, nothing is written.

        Raises:
            StoreFailed: it cannot be saved.
        """
        with self._lock:
            is_any = any(reason for _, step in self._steps for _, reason in step)
            now_s = clock.monotonic_s()
            steps = [[now_s - time_s, [[*count, value] for count, value in step.items()]] for time_s, step in self._steps if step]
            body = {"time_s": clock.now_s(), "began_s": now_s - self._began_s, "steps": steps}
        if is_any:
            checkpoints.save(CONSUMER, {}, orjson.dumps(body))

    def recall(self, checkpoints: CheckpointStore, clock: Clock) -> None:
        """Begin with what a predecessor kept, as far as it is not older than the span; called before the first reading.

        Raises:
            StoreFailed: it cannot be read.
        """
        if (saved := checkpoints.load(CONSUMER)) is None:
            return
        try:
            body = orjson.loads(saved[1])
            now_s = clock.monotonic_s() - max(0.0, clock.now_s() - float(body["time_s"]))  # then, by this process's clock
            steps = [
                (now_s - float(age_s), Counter({(str(route), str(reason)): int(value) for route, reason, value in counts}))
                for age_s, counts in body["steps"]
            ]
            began_s = now_s - float(body["began_s"])
        except (KeyError, TypeError, ValueError) as error:  # of another version of the program
            _journal.warning("What was refused before cannot be read", extra={"action": "begin anew", "reason": str(error)})
            return
        with self._lock:
            self._steps.extend(one for one in steps if clock.monotonic_s() - one[0] < SPAN_S)
            self._began_s = began_s

    def facts(self) -> Mapping[str, RefusalFacts]:
        """Return what was counted by route; those without a request are left out."""
        with self._lock:
            total = sum((step for _, step in self._steps), Counter[_Count]())
            span_s = min(SPAN_S, self._steps[-1][0] - self._began_s) if self._steps else 0.0
        reasons: dict[str, list[tuple[str, int]]] = {}
        requests: Counter[str] = Counter()
        for (route, reason), count in total.most_common():
            found = reasons.setdefault(route, [])
            if reason:
                found.append((reason, count))
            if not reason or reason in _UNRECORDED:
                requests[route] += count
        return {route: RefusalFacts(span_s, requests[route], tuple(found)) for route, found in reasons.items()}


def _counted(snapshots: Mapping[str, Sequence[Sample]]) -> Iterator[tuple[_Series, _Count, float]]:
    for process, samples in snapshots.items():
        for sample in samples:
            if sample.name == REJECTED.name:
                (_, route), (_, reason) = sample.labels
                if route and reason in _OWN:
                    yield (process, sample.name, sample.labels), (route, reason), sample.value
            elif sample.name == PREDICTIONS.name and dict(sample.labels)["kind"] == Kind.LIVE.value:
                yield (process, sample.name, sample.labels), (sample.labels[0][1], ""), sample.value
