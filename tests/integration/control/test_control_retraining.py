"""From a loss that rose to the training pipeline, in one piece: log → monitor → audit log → control → a receiver's socket."""

from __future__ import annotations

import hashlib
import hmac
import shlex
import threading
from dataclasses import replace
from datetime import datetime

import pytest

from adapters.clock import SystemClock
from adapters.detectors.river import AdwinDetector
from adapters.logs.reading import SegmentReader
from adapters.memory import MemoryBank, MemoryReadings
from adapters.senders.opened import opened_sender
from adapters.stores.memory import MemoryCheckpoints
from gateway.core.changes import PutRollout, PutRoute
from gateway.core.notices import Channel
from gateway.core.outcomes import LEARN_OUTCOMES
from gateway.core.plans import Plan
from gateway.core.retraining import ASK
from gateway.core.rollouts import Event, apply_event
from gateway.monitor.gauges import Gauges
from gateway.monitor.run import Monitor
from tests.integration.control.test_control_notices import Receiver
from tests.integration.monitor.monitor_world import (
    ROUTE,
    SETTINGS,
    START_S,
    World,
    commit,
    make_registry,
    records,
    segment_writer,
)

FINE = World({"1": 0.0}, {"1": 0.1})
WORSE = replace(FINE, losses={"1": 0.4})
APART_S = 700.0  # more than a request waits for what may explain its rise


@pytest.fixture
def receiver():
    """Return a server that takes everything."""
    running = Receiver()
    yield running
    running.close()


def test_loss_that_the_world_raised_reaches_the_training_pipeline_once(start_control, receiver, until):
    """One signed CloudEvent tells of the monitor's own verdict, with its evidence and a span of the log that has the answers."""
    url = f"cloudevents+{receiver.url}/events?source=/headgate/test&secret=s3cret"
    channel = Channel("training", url, kinds=("retraining.*",))
    control = start_control(channels={"training": (channel, opened_sender(channel))})
    rollout, registry = make_registry(control.registry, plan=Plan()), control.registry
    ended, route = apply_event(rollout, registry.table().routes[ROUTE], Event.ROLLBACK, reason="by hand", now_s=START_S)
    commit(registry, PutRoute(route), PutRollout(ended), route=ROUTE)

    writers = {stream: segment_writer(control.data, stream) for stream in ("w0", "w1")}
    for at, (world, count) in enumerate(((FINE, LEARN_OUTCOMES + 100), (WORSE, 400), (WORSE, 50), (WORSE, 50))):
        for stream, record in records(registry, world, count, seed=at + 1, start_s=START_S + at * APART_S):
            writers[stream].append([record])
    monitor = Monitor(
        settings=SETTINGS,
        log=SegmentReader(control.data / "log"),
        registry=registry,
        checkpoints=MemoryCheckpoints(),
        readings=MemoryReadings(),
        gauges=Gauges(MemoryBank()),
        detector=AdwinDetector,
        recall=lambda _ids: {},
        clock=SystemClock(),
    )
    while monitor.turn(threading.Event()):
        pass
    [entry] = [one for one in registry.audit(0, 1_000) if one.action == ASK]
    until(lambda: receiver.got, within_s=60)
    delivered = 'gateway_notices_delivered_total{channel="training",process="control"} 1.0'
    until(lambda: delivered in control.admin.get("/metrics").text, within_s=60)

    ((event, headers),) = receiver.got
    assert (headers["content-type"], event["datacontenttype"]) == ("application/cloudevents+json", "application/json")
    assert headers["headgate-signature"] == "sha256=" + hmac.new(b"s3cret", receiver.raw[0], hashlib.sha256).hexdigest()
    assert (event["specversion"], event["type"]) == ("1.0", "headgate.retraining.ask")
    assert (event["id"], event["source"], event["subject"]) == (f"audit-{entry.seq}", "/headgate/test", ROUTE)
    assert datetime.fromisoformat(event["time"]).timestamp() == pytest.approx(entry.time_s, abs=1e-3)
    data = event["data"]
    assert (data["attribution"], data["audit_entry"], data["finding"]["version"]) == ("WORLD", entry.seq, "1")
    assert data["finding"]["loss"] > data["finding"]["bound"] > data["finding"]["reference"]
    since_s = datetime.fromisoformat(data["since"]).timestamp()
    assert since_s == pytest.approx(START_S + APART_S, abs=1.0)
    words = shlex.split(data["export"])
    assert words[:3] == ["headgate", "predictions", "export"]
    span = {name: words[words.index(f"--{name}") + 1] for name in ("route", "since", "until")}
    found = control.admin.get("/api/v1/predictions", params={**span, "limit": 1_000}).json()["predictions"]
    assert len(found) > 300
    assert {one["prediction_id"].split("-")[1] for one in found} <= {"2", "3", "4"}, "nothing from before the rise"
