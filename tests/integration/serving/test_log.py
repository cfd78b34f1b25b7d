"""Answers and the log: nothing is answered without a record, unless the operator chose so."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from adapters.inflight import InFlightWatch, MappedInFlight
from adapters.logs.memory import MemoryLog
from gateway.core.records import Heartbeat, Kind, Offset, Outcome, PredictionRecord, Record, StreamEnd
from gateway.ports.inflight import Place
from gateway.settings import Durability, LogSettings, Settings, WhenFull


class Watched:
    """A writer that notes what happens, and can be held up in `sync`."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.groups: list[int] = []
        self.synced = 0
        self.may_sync = threading.Event()
        self.may_sync.set()
        self._writer = self.log.writer("w0")
        self.resumed_s = self._writer.resumed_s

    def append(self, records: Sequence[Record]) -> Offset:
        """Note the group and append it."""
        self.groups.append(sum(isinstance(record, PredictionRecord) for record in records))
        return self._writer.append(records)

    def sync(self) -> None:
        """Wait until it may."""
        assert self.may_sync.wait(10)
        self.synced += 1

    def close(self) -> None:
        """Close."""
        self._writer.close()


def test_full_log_refuses_predictions(make_worker, models, until):
    """With no room for the record there is no answer: a clear 503, and no prediction beyond the log."""
    worker = make_worker(log=MemoryLog(records_max=11), settings=Settings(log=LogSettings(heartbeat_s=1e6))).start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    until(lambda: len(worker.records()) == 1)  # The anchor of the audit log, which takes the room of one.
    answers = [worker.infer("m", [[1, 2, 3, 4]]) for _ in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [503] * 2
    assert answers[-1].headers["retry-after"] == "1"
    assert "full" in answers[-1].json()["error"]
    assert len(worker.predictions()) == 10
    assert worker.metric("gateway_log_write_failures_total") == 2


def test_full_log_may_be_gone_on_without(make_worker, models, until):
    """Under `continue` the answers leave and what was not logged is counted."""
    settings = Settings(log=LogSettings(heartbeat_s=1e6, when_full=WhenFull.CONTINUE))
    worker = make_worker(log=MemoryLog(records_max=11), settings=settings).start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    until(lambda: len(worker.records()) == 1)  # The anchor of the audit log, which takes the room of one.
    assert [worker.infer("m", [[1, 2, 3, 4]]).status_code for _ in range(12)] == [200] * 12
    assert len(worker.predictions()) == 10
    assert worker.metric("gateway_unlogged_records_total") == 2


def test_durable_answers_wait_for_the_sync(make_worker, models, until):
    """Under `disk` no answer leaves before its group is synced, and what comes meanwhile is one group."""
    writer = Watched()
    worker = make_worker(writer=writer, settings=Settings(log=LogSettings(durability=Durability.DISK))).start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    writer.may_sync.clear()
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(worker.infer("m", [[1, 2, 3, 4]]).status_code)) for _ in range(9)]
    threads[0].start()
    until(lambda: sum(writer.groups) == 1)
    for thread in threads[1:]:
        thread.start()
    until(lambda: worker.metric("gateway_predictions_total", outcome="ok") == 9)
    assert answers == []
    assert sum(writer.groups) == 1
    writer.may_sync.set()
    for thread in threads:
        thread.join()
    assert answers == [200] * 9
    assert sum(writer.groups) == 9
    assert max(writer.groups) == 8


def test_idle_worker_writes_heartbeats_and_a_stopped_one_its_end(make_worker, until):
    """A stream without predictions still tells the time; its last record says that it is over; time never falls."""
    worker = make_worker(settings=Settings(log=LogSettings(heartbeat_s=0.05))).start()
    until(lambda: len(worker.records()) >= 3)
    worker.stop()
    records = worker.records()
    assert {type(record) for record in records[:-1]} == {Heartbeat}
    assert isinstance(records[-1], StreamEnd)
    times = [record.time_s for record in records]
    assert times == sorted(times)


def test_what_died_with_the_worker_before_is_recorded(make_worker, models, until, tmp_path):
    """Runs that a dead worker left behind become records that blame the version, of the kind they were, and are counted so."""
    ids = [f"01234567-89ab-7def-8123-4567{at:08x}" for at in range(3)]
    place = Place(model="m", route="r", revision=3, variant="a", version="1", digest="d", runtime_version="1")
    dead = MappedInFlight(tmp_path / "in-flight")
    for id, variant in zip(ids, ("a", "s", "pinned"), strict=True):
        dead.enter(dead.bind(replace(place, variant=variant)), [bytes.fromhex(id.replace("-", ""))])
    InFlightWatch(tmp_path / "in-flight").mark_hung()
    worker = make_worker()
    worker.register("m", "1", models.linear())
    variants = [{"name": "a", "version": "1", "weight": 10_000}]
    worker.route("r", {"model": "m", "variants": variants, "shadows": [{"name": "s", "version": "1", "fraction": 1.0}]})
    worker.start()
    until(lambda: len(worker.predictions()) == 3)
    records = {record.prediction_id: record for record in worker.predictions()}
    assert [records[id].kind for id in ids] == [Kind.LIVE, Kind.SHADOW, Kind.PINNED]
    assert {record.outcome for record in records.values()} == {Outcome.HUNG}
    assert {(record.version, record.revision) for record in records.values()} == {("1", 3)}
    counts = [(dict(one.labels), one.value) for one in worker.metrics.samples() if one.name == "gateway_predictions_total"]
    assert sorted((labels["variant"], labels["kind"], labels["outcome"], count) for labels, count in counts) == [
        ("a", "live", "hung", 1.0),
        ("pinned", "pinned", "hung", 1.0),
        ("s", "shadow", "hung", 1.0),
    ]
