"""The monitor: read the log in its merged order, fold, judge, act, checkpoint, show.

It reads the log and the registry, and the only thing it writes to others is a route change with its evidence. What it decides
depends on the log's own times and order, not on when it looked, except that a monitor far behind raises no challenger (see
`docs/decisions/0004`); dying at any point and going on from the checkpoint changes nothing. Serving never waits for it.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from gateway.core.errors import ArchiveFailed, LogFailed, PortFault
from gateway.core.partitions import WHOLE, Partition
from gateway.core.records import PredictionRecord
from gateway.metrics.metric import cell
from gateway.metrics.process import UNEXPECTED_ERRORS
from gateway.monitor.act import begin
from gateway.monitor.checkpoint import restored, state_of
from gateway.monitor.decide import decide_due, learn_route, learn_versions
from gateway.monitor.drills import Drills
from gateway.monitor.fold import Fold
from gateway.monitor.gauges import Gauges
from gateway.monitor.late import Recall, look_up
from gateway.monitor.merge import Merge, refill
from gateway.monitor.picture import picture
from gateway.monitor.runs import take_run
from gateway.monitor.views import view_at
from gateway.ports.clock import Clock
from gateway.ports.log import PredictionLogReader
from gateway.ports.metrics import MetricsBank
from gateway.ports.readings import Detector, Readings
from gateway.ports.stores import CheckpointStore, RegistryStore
from gateway.settings import Settings

FAILURE_REST_S: Final = 0.5  # after a turn that failed: the registry or the log is away, and serving goes on without us
CHECKPOINT_SHARE: Final = 0.05  # of the time at most is spent on checkpoints, however large the state is
PICTURE_SHARE: Final = 0.05  # the same for pictures
GC_OBJECTS: Final = 20_000  # new containers between collections of the youngest: more than a page has, and none is in a cycle
REST_MIN: Final = 4  # records folded one by one where no run could be taken, before the next is tried…
REST_MAX: Final = 512  # …and so many where none can be again and again: what is gathered in vain takes a third of folding it
_journal = logging.getLogger(__name__)


def run_monitor(
    *,
    settings: Settings,
    log: PredictionLogReader,
    registry: RegistryStore,
    checkpoints: CheckpointStore,
    readings: Readings,
    metrics: MetricsBank,
    detector: Callable[[int], Detector],
    recall: Recall,
    clock: Clock,
    stop: threading.Event,
    partition: Partition = WHOLE,
) -> None:
    """Run until `stop` is set, then save and return. Whatever fails is counted and tried again.

    Args:
        log: Gives `Elsewhere` for predictions on routes that are not of the partition.
    """
    gc.set_threshold(GC_OBJECTS, 10, 10)
    failures = cell(metrics, UNEXPECTED_ERRORS, "monitor")
    gauges = Gauges(metrics)
    monitor: Monitor | None = None
    while not stop.is_set():
        try:
            if monitor is None:
                monitor = Monitor(
                    settings=settings,
                    log=log,
                    registry=registry,
                    checkpoints=checkpoints,
                    readings=readings,
                    gauges=gauges,
                    detector=detector,
                    recall=recall,
                    clock=clock,
                    partition=partition,
                )
            is_idle = monitor.turn(stop) == 0
        except PortFault as error:
            gauges.turn_failed()
            _journal.warning("A turn of the monitor failed", extra={"action": "retry", "reason": str(error)})
            stop.wait(FAILURE_REST_S)
        except Exception:  # noqa: BLE001 - the monitor's turn; counted and journalled
            gauges.turn_failed()
            failures.add(1.0)
            _journal.exception("A turn of the monitor failed unexpectedly", extra={"action": "retry"})
            stop.wait(FAILURE_REST_S)
        else:
            if is_idle:
                stop.wait(settings.monitor.poll_s)
    if monitor is not None:
        monitor.close()


class Monitor:
    """One life of the monitor, from its checkpoint on; it does nothing between calls of `turn`.

    Raises:
        StoreFailed: the checkpoint or the registry cannot be read.
        LogFailed: the log cannot be read.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        log: PredictionLogReader,
        registry: RegistryStore,
        checkpoints: CheckpointStore,
        readings: Readings,
        gauges: Gauges,
        detector: Callable[[int], Detector],
        recall: Recall,
        clock: Clock,
        partition: Partition = WHOLE,
    ) -> None:
        self._settings = settings.monitor
        self._partition = partition
        self._log = log
        self._registry = registry
        self._checkpoints = checkpoints
        self._readings = readings
        self._gauges = gauges
        self._recall = recall
        self._clock = clock
        self.fold = Fold(
            detector,
            epoch_s=self._settings.epoch_s,
            truth_rows_max=self._settings.truth_wait_max,
            false_alarm_events=self._settings.false_alarm_events,
            events_per_s_max=self._settings.events_per_s_max,
        )
        drilled = self._settings if partition.index == 0 else replace(self._settings, drill_s=0.0)  # all run the same code
        self._drills = Drills(detector, settings=drilled, gauges=gauges, clock=clock)
        self._merge = self._restored()
        self._rest = REST_MIN
        self._saved_records = self.fold.records
        self._save_at_s = self._publish_at_s = clock.monotonic_s()

    def turn(self, stop: threading.Event) -> int:
        """Read a page of each stream, fold what is in order, act; save and publish when it is time.

        Returns:
            The records read and folded; 0 when there is nothing to do.

        Raises:
            PortFault: a port failed; nothing is lost, the next turn goes on where this one stopped.
        """
        before, moved = self.fold.records, self._merge.moved_count
        try:
            count = refill(self._merge, self._log, self._settings.page_records)
        finally:
            self._gauges.positions_moved(self._merge.moved_count - moved)
        self._look_up()
        self._decide_due()
        while self._merge.peek() is not None and not stop.is_set():
            following, is_taken = take_run(self.fold, self._merge.ready)
            if is_taken:
                self._merge.pass_by(following)
                self._rest = REST_MIN
            else:
                self._take(max(following, self._rest))
                self._rest = min(2 * self._rest, REST_MAX)
        self._gauges.count(self.fold, lag_s=self._lag_s())
        now_s = self._clock.monotonic_s()
        if now_s >= self._publish_at_s:
            self._publish()
        if now_s >= self._save_at_s and self.fold.records != self._saved_records:
            self._save()
        self._drills.turn()
        return count + self.fold.records - before

    def _take(self, count: int) -> None:
        """Fold so many records one by one, or all that are in order."""
        for _ in range(count):
            merged = self._merge.peek()
            if merged is None:
                return
            if isinstance(merged.record, PredictionRecord):
                self._prepare(merged.record)
            self._merge.pop()
            self.fold.take(merged)
            if self.fold.sought:
                self._look_up()
            if self.fold.due:
                self._decide_due()

    def close(self) -> None:
        """Save and publish a last time; what fails now is repeated after the next start."""
        try:
            self._save()
            self._publish()
        except PortFault as error:
            _journal.warning("The last checkpoint failed", extra={"action": "repeat after start", "reason": str(error)})

    def _decide_due(self) -> None:
        try:
            gap_s = self._settings.retraining_gap_s
            decide_due(self.fold, self._registry, self._merge.cursor(), lag_s=self._lag_s(), retraining_gap_s=gap_s)
        except PortFault:
            raise
        except BaseException:
            self.fold.due.clear()  # a decision that cannot be made must not stop the log from being read
            raise

    def _look_up(self) -> None:
        """Look for old predictions; an archive that cannot be read stops nothing, and they are sought again."""
        if not self.fold.sought:
            return
        try:
            look_up(self.fold, self._recall, self._prepare, self._partition.has)
        except (ArchiveFailed, LogFailed) as error:
            self.fold.sought = []
            self._gauges.turn_failed()
            facts = {"action": "seek again", "reason": str(error)}
            _journal.warning("Predictions could not be looked up in the archive", extra=facts)

    def _prepare(self, record: PredictionRecord) -> None:
        """Learn from the registry what the record speaks of, before it is taken."""
        fold = self.fold
        if fold.lacks_view(record):
            view = view_at(self._registry, record.route, record.model, record.revision)
            learn_route(fold, view, self._registry.rollout)
            learn_versions(fold, self._registry, record.model, view.compared)
        if (record.model, record.version) not in fold.versions:
            learn_versions(fold, self._registry, record.model, (record.version,))

    def _restored(self) -> Merge:
        saved = self._checkpoints.load(self._partition.consumer)
        merge = None if saved is None else restored(saved[1], self.fold, self._registry)
        if merge is not None:
            return merge
        cursor = {} if saved is None else saved[0]
        oldest = {name: self._log.oldest(name) for name in self._log.streams()}
        begun = {name: max(cursor.get(name, offset), offset) for name, offset in oldest.items()}
        if any(begun.values()):
            _journal.warning("The monitor's state is lost", extra={"action": "go on from its cursor with nothing known"})
            begin(self._registry, self._partition.consumer, begun)
        return Merge.after(cursor)

    def _save(self) -> None:
        begin_s = self._clock.monotonic_s()
        self._checkpoints.save(self._partition.consumer, self._merge.cursor(), state_of(self.fold, self._merge))
        self._saved_records = self.fold.records
        end_s = self._clock.monotonic_s()
        self._save_at_s = end_s + max(self._settings.checkpoint_s, (end_s - begin_s) / CHECKPOINT_SHARE)

    def _publish(self) -> None:
        begin_s = self._clock.monotonic_s()
        drills, at_s = self._drills.body(), self._clock.now_s()
        self._readings.publish(picture(self.fold, self._merge, lag_s=self._lag_s(), drills=drills, published_at_s=at_s))
        self._gauges.show(self.fold, late_count=self._merge.late_count)
        end_s = self._clock.monotonic_s()
        self._publish_at_s = end_s + max(self._settings.publish_s, (end_s - begin_s) / PICTURE_SHARE)

    def _lag_s(self) -> float:
        return max(0.0, self._clock.now_s() - self.fold.now_s) if self.fold.records else 0.0
