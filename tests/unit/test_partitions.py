"""Every route is one process's, and whoever reads for one process gets of the others only what its order needs."""

from __future__ import annotations

import pytest

from adapters.logs.codec import decode, encode
from gateway.core.errors import LogFailed
from gateway.core.partitions import WHOLE, partitions
from gateway.core.pictures import joined
from gateway.core.records import Elsewhere, GroundTruthRecord
from gateway.core.troubles import Trouble, complaints
from tests.records import prediction

NAMES = [f"route-{number}" for number in range(1_000)]
RECORD = prediction(prediction_id="p1", time_s=5.0, route="fares")


@pytest.mark.parametrize("count", [1, 2, 7])
def test_partitions_share_every_route_once(count):
    """Each route belongs to exactly one process, none has far more than its part, and their checkpoints are told apart."""
    parts = partitions(count)
    shares = [sum(part.has(name) for name in NAMES) for part in parts]

    assert sum(shares) == len(NAMES)
    assert min(shares) > 0.6 * len(NAMES) / count
    assert len({part.consumer for part in parts}) == len({part.process for part in parts}) == count
    assert not {part.consumer for part in partitions(count + 1)} & {part.consumer for part in parts}


def test_reader_leaves_other_routes_to_others():
    """Of a prediction on another route the id, the time and the route are read; ground truth is read whole."""
    line, truth = encode([RECORD]), encode([GroundTruthRecord("p1", 6.0, 0, "yes", 6.0)])

    assert decode(line, lambda route: route == "fares") == RECORD == decode(line)
    assert decode(line, lambda route: route == "delays") == Elsewhere("p1", 5.0, "fares")
    assert decode(truth, lambda _: False) == decode(truth)
    with pytest.raises(LogFailed, match="cannot be written"):
        encode([Elsewhere("p1", 5.0, "fares")])


def _picture(*, lag_s: float, routes: dict[str, object], rate: float = 1.0) -> dict[str, object]:
    truth, sampling = {"waiting_rows": 2}, {"rate": rate, "passed_over": 3}
    shown = {"published_at_s": 100.0 - lag_s, "time_s": 90.0, "lag_s": lag_s, "records": 10, "late": 0, "unplaced": 1}
    return {
        "format": 1,
        "monitor": {**shown, "cursor": {"w0": int(lag_s)}, "truth": truth, "sampling": sampling, "fleet": {}},
        "routes": routes,
    }


def test_pictures_of_several_processes_are_one():
    """The worst of the processes stands for the monitor, counts are summed, and every route says whose it is."""
    pictures = {"monitor": _picture(lag_s=1.0, routes={"b": {}}), "monitor-1": _picture(lag_s=4.0, routes={"a": {}}, rate=0.5)}
    shown = joined(pictures)
    monitor = shown["monitor"]

    assert shown["routes"] == {"a": {"process": "monitor-1"}, "b": {"process": "monitor"}}
    assert (monitor["lag_s"], monitor["published_at_s"], monitor["records"], monitor["cursor"]) == (4.0, 96.0, 20, {"w0": 1})
    assert (monitor["truth"], monitor["sampling"]) == ({"waiting_rows": 4}, {"rate": 0.5, "passed_over": 6})
    assert [one["routes"] for one in monitor["processes"].values()] == [1, 1]
    assert joined({WHOLE.process: None, "monitor-1": None}) is None


def test_process_that_shows_nothing_is_a_trouble():
    """One process of two that has not published is named, however well the other is."""
    shown = joined({"monitor": _picture(lag_s=0.0, routes={}), "monitor-1": None})
    [complaint] = complaints(shown, now_s=100.0)

    assert complaint.trouble is Trouble.SILENT
    assert "monitor-1" in complaint.reason
