"""The monitor's gauges: what is not said any more is not shown, and no counter falls."""

from __future__ import annotations

import math

from adapters.detectors.river import AdwinDetector
from adapters.memory import MemoryBank
from gateway.core.records import Kind
from gateway.metrics.evidence import QUALITY_KNOWN, QUALITY_LOSS
from gateway.metrics.metric import cell
from gateway.metrics.monitor import MONITOR_RECORDS
from gateway.monitor.fold import Fold
from gateway.monitor.gauges import Gauges
from gateway.monitor.state import RouteState
from gateway.monitor.views import RouteView

PLACE = ("delays", "champion", "1")


def fold_with_losses(count: int) -> Fold:
    """Return a fold that knows so many losses of one version."""
    fold = Fold(AdwinDetector, epoch_s=60.0, truth_rows_max=10, false_alarm_events=1e6)
    state = fold.routes["delays"] = RouteState(RouteView("delays", "m", 1))
    tally = state.tally("champion", "1", Kind.LIVE)
    tally.rows = 10
    for _ in range(count):
        tally.window(0.0).count_truth(0.0, 0.5)
    return fold


def shown(bank: MemoryBank) -> dict[str, float]:
    """Return what a scrape would show, by name; of what has labels, any one."""
    return {sample.name: sample.value for sample in bank.samples() if not math.isnan(sample.value)}


def test_gauge_that_is_not_said_any_more_is_not_shown():
    """When the last hour has no outcomes any more, there is no loss to show, and there is again with the next one."""
    bank = MemoryBank()
    gauges = Gauges(bank)
    gauges.show(fold_with_losses(3), late_count=0)
    assert shown(bank)[QUALITY_LOSS.name] == 0.5
    gauges.show(fold_with_losses(0), late_count=0)
    assert QUALITY_LOSS.name not in shown(bank)
    assert shown(bank)[QUALITY_KNOWN.name] == 0.0
    gauges.show(fold_with_losses(3), late_count=0)
    assert shown(bank)[QUALITY_LOSS.name] == 0.5


def test_gauges_of_an_earlier_process_are_gone_and_its_counts_are_not():
    """What an earlier monitor showed is not shown until this one says it; its counts go on, and never fall."""
    bank = MemoryBank()
    cell(bank, QUALITY_LOSS, *PLACE).set(0.9)
    cell(bank, MONITOR_RECORDS).set(100.0)

    gauges = Gauges(bank)

    assert QUALITY_LOSS.name not in shown(bank)
    fold = fold_with_losses(0)
    for records, counted in ((90, 100.0), (110, 110.0)):  # the first 90 once more, from the checkpoint on
        fold.records = records
        gauges.count(fold, lag_s=0.0)
        assert shown(bank)[MONITOR_RECORDS.name] == counted
