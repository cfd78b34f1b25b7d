"""What a start does to what an earlier one left behind."""

from __future__ import annotations

import re
from pathlib import Path

from adapters.metrics_file import MetricsDirectory, MetricsFile
from gateway.compose.start import prepare_data
from gateway.exposition import exposition
from gateway.metrics.metric import cell
from gateway.metrics.monitor import MONITOR_LAG, MONITOR_RECORDS
from gateway.metrics.serving import LAST_RUN, LOG_RECORDS, LOOP_LAG
from gateway.settings import MonitorSettings, ServingSettings, Settings


def shown(directory: Path) -> set[tuple[str, str]]:
    """Return which metrics are shown of which process."""
    text = exposition(MetricsDirectory(directory))[0].decode()
    return set(re.findall(r'^(\w+)\{.*?process="([^"]+)"', text, re.MULTILINE))


def test_start_shows_no_gauge_of_processes_that_will_not_run(tmp_path):
    """With fewer workers and monitors their gauges go, for they would stay as they are for good; counters are parts of totals."""
    directory = tmp_path / "data" / "run" / "metrics"
    banks = {name: MetricsFile(directory / f"{name}.bin") for name in ("w0", "w1", "monitor", "monitor-1", "archive")}
    for name in ("w0", "w1"):
        for metric in (LOOP_LAG, LOG_RECORDS):
            cell(banks[name], metric).set(3.0)
        cell(banks[name], LAST_RUN, "m", "1").set(3.0)
    for name in ("monitor", "monitor-1"):
        for metric in (MONITOR_LAG, MONITOR_RECORDS):
            cell(banks[name], metric).set(3.0)
    before = shown(directory)
    settings = Settings(data_dir=tmp_path / "data", serving=ServingSettings(workers=1), monitor=MonitorSettings(processes=1))
    prepare_data(settings)
    assert before - shown(directory) == {("gateway_loop_lag_seconds", "w1"), ("gateway_monitor_lag_seconds", "monitor-1")}
    cell(MetricsFile(directory / "w1.bin"), LOOP_LAG).set(1.0)  # as when there are as many again
    assert ("gateway_loop_lag_seconds", "w1") in shown(directory)


def test_start_removes_what_models_wrote_whose_processes_are_gone(tmp_path):
    """Scratch directories go, also those of workers that will not run any more."""
    left = tmp_path / "data" / "run" / "pickled" / "w7" / "tmp1" / "cache"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 1_000)
    prepare_data(Settings(data_dir=tmp_path / "data"))
    assert not left.exists()
