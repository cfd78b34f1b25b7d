"""What happens when a version fails: failover, the record of it, the worker's own rule, and neighbours in a batch."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

import numpy as np

from adapters.inflight import MappedInFlight
from adapters.suspicions_file import SuspicionsFile
from gateway.core.attribution import Attribution
from gateway.core.guardrails import error_value
from gateway.core.plans import Plan, Step
from gateway.core.poison import after_death
from gateway.core.policy import Rollback, decide
from gateway.core.records import Outcome, PredictionRecord
from gateway.core.rollouts import begin
from gateway.core.routes import Route, Variant, with_weights
from gateway.core.split import SLOTS
from gateway.core.tensors import Datatype, Tensor
from gateway.monitor.watch import RolloutWatch
from gateway.ports.inflight import Place
from gateway.serving.poison import fingerprints_of


def challenged(worker, until, champion, challenger, **route: object):
    """Serve `r`: the variant `bad` gets everything, `good` is the fallback."""
    worker.register("m", "1", champion, cost_us=10)
    worker.register("m", "2", challenger, cost_us=10)
    variants = [{"name": "good", "version": "1", "weight": 0}, {"name": "bad", "version": "2", "weight": 10_000}]
    worker.route("r", {"model": "m", "variants": variants, "fallback": "good", **route})
    worker.until_served(until)


def test_failing_challenger_is_answered_by_the_fallback(worker, models, until):
    """A hard fault costs the caller nothing, and the record keeps who was assigned and both attempts."""
    challenged(worker, until, models.identity_row(), models.root())
    answer = worker.infer("r", [[-4]])
    assert answer.status_code == 200
    assert answer.json()["parameters"]["variant"] == answer.headers["gateway-variant"] == "good"
    assert answer.json()["outputs"][0]["data"] == [-4.0]
    [record] = worker.predictions()
    assert (record.assigned, record.variant, record.version, record.outcome) == ("bad", "good", "1", Outcome.OK)
    assert [(tried.variant, tried.outcome) for tried in record.attempts] == [("bad", Outcome.INVALID), ("good", Outcome.OK)]
    assert worker.metric("gateway_failovers_total", route="r", variant="good") == 1


def test_input_that_processes_died_of_goes_to_the_fallback(make_worker, models, until, tmp_path):
    """The version that died of it is not run, is blamed in the record, and answers other rows; without a fallback it is a 422."""
    worker = make_worker()
    fatal = fingerprints_of([Tensor("x", Datatype.FP32, np.array([[4]], np.float32))], 1, is_batched=True)
    runs = [(hashlib.sha256(models.root().content).hexdigest(), [fatal[0].hex()])]
    for _ in range(2):
        SuspicionsFile(tmp_path / "poison.json").change(partial(after_death, runs=runs, now_s=time.time(), keep_s=600.0))
    worker.start()
    challenged(worker, until, models.identity_row(), models.root())
    until(lambda: worker.metric("gateway_poisonous_inputs") == 1)
    assert worker.infer("r", [[4]]).json()["outputs"][0]["data"] == [4.0]
    assert worker.infer("r", [[9]]).json()["outputs"][0]["data"] == [3.0]
    refused = worker.infer("r", [[9], [4]], version="2")
    assert (refused.status_code, "died of this input" in refused.json()["error"]) == (422, True)
    blamed, sound = worker.predictions()
    tried = [(one.variant, one.outcome, one.duration_us) for one in blamed.attempts]
    assert tried[0] == ("bad", Outcome.CRASHED, 0)
    assert [one[:2] for one in tried[1:]] == [("good", Outcome.OK)]
    assert [one.variant for one in sound.attempts] == ["bad"]
    assert worker.metric("gateway_rejected_requests_total", reason="PoisonousInput") == 1


def test_nan_from_finite_inputs_is_a_fault_and_nan_from_nan_is_not(worker, models, until):
    """Only a row whose inputs are finite may not answer NaN; the other rows of the request do not matter."""
    worker.register("m", "1", models.root(), champion=True)
    worker.until_served(until)
    assert worker.infer("m", [[None], [4]]).json()["outputs"][0]["data"] == [None, 2.0]
    assert worker.infer("m", [[-1], [4]]).status_code == 500
    assert worker.infer("m", [[None], [-1]]).status_code == 500
    assert [record.outcome for record in worker.predictions()] == [Outcome.OK, Outcome.INVALID, Outcome.INVALID]


def test_when_everything_fails_the_record_says_so(worker, models, until):
    """A request that nobody could answer gets a 500 with its id, and one record with every attempt."""
    challenged(worker, until, models.root(), models.root())
    answer = worker.infer("r", [[-1]])
    assert answer.status_code == 500
    assert answer.json().keys() == {"error"}
    [record] = worker.predictions()
    assert record.prediction_id == answer.headers["gateway-prediction-id"]
    assert (record.assigned, record.variant, record.outcome, record.outputs) == ("bad", "good", Outcome.INVALID, ())
    assert len(record.attempts) == 2


def test_worker_takes_a_failing_version_out_of_rotation(make_worker, models, until):
    """After k faults of the last n the fallback answers directly; after the rest one probe brings the version back."""
    worker = make_worker(fault_window=10, faults_max=3, fault_rest_first_s=0.3, fault_rest_s=0.3).start()
    challenged(worker, until, models.identity_row(), models.root())
    for _ in range(3):
        worker.infer("r", [[-1]])
    worker.infer("r", [[-1]])
    records = worker.predictions()
    assert [len(record.attempts) for record in records] == [2, 2, 2, 1]
    assert (records[3].assigned, records[3].variant) == ("bad", "good")
    assert worker.metric("gateway_version_rests_total", model="m", version="2") == 1
    probe = until(lambda: (body := worker.infer("r", [[4]]).json())["parameters"]["variant"] == "bad" and body)
    assert probe["outputs"][0]["data"] == [2.0]
    assert worker.infer("r", [[9]]).json()["parameters"]["variant"] == "bad"


def test_record_says_what_could_not_have_run_whichever_variant_was_chosen(make_worker, models, until):
    """While a version rests, the records of both variants name it; those before it rested and with one variant name nothing."""
    worker = make_worker(fault_window=10, faults_max=3, fault_rest_first_s=60.0, fault_rest_s=60.0).start()
    worker.register("m", "1", models.identity_row(), cost_us=10)
    worker.register("m", "2", models.root(), cost_us=10)
    variants = [{"name": "good", "version": "1", "weight": 5_000}, {"name": "bad", "version": "2", "weight": 5_000}]
    worker.route("r", {"model": "m", "variants": variants, "fallback": "good"})
    worker.until_served(until)
    for _ in range(60):
        worker.infer("r", [[-1]])
    records = worker.predictions()
    third = [at for at, record in enumerate(records) if record.attempts[0].variant == "bad"][2]
    assert {record.resting for record in records[: third + 1]} == {()}
    after = {(record.assigned, record.resting) for record in records[third + 1 :]}
    assert after == {("good", ("bad",)), ("bad", ("bad",))}


def test_challenger_that_always_fails_is_convicted_within_seconds(make_worker, models, until):
    """One worker's records of a few seconds convict it, though it rests for most of them, and no caller sees an error."""
    worker = make_worker().start()
    worker.register("m", "1", models.identity_row(), cost_us=10)
    worker.register("m", "2", models.root(), cost_us=10)
    variants = [{"name": name, "version": version, "weight": 5_000} for name, version in (("champion", "1"), ("challenger", "2"))]
    worker.route("r", {"model": "m", "variants": variants, "fallback": "champion"})
    worker.until_served(until)
    before = with_weights(Route(name="r", model="m", variants=(), fallback="champion"), (Variant("champion", "1", SLOTS),))
    plan = Plan(steps=(Step(5_000),), advances_itself=False)
    rollout, _ = begin(before, id="r1", challenger="2", plan=plan, salt="salt", now_s=0.0)
    watch = RolloutWatch(replace(rollout, since_revision=0), epoch_s=600.0)
    records: list[PredictionRecord] = []

    def is_convicted() -> bool:
        assert {worker.infer("r", [[-4]]).status_code for _ in range(20)} == {200}
        fresh = worker.predictions()[len(records) :]
        records.extend(fresh)
        return any(watch.observe(record, record.time_s, 0.5) for record in fresh)

    until(is_convicted)

    facts = watch.facts(now_s=records[-1].time_s, frozen_by=Attribution.NONE, is_automation_on=True, last_increase_s=None)
    assert isinstance(decide(rollout, watch.findings(), facts), Rollback)


def test_what_died_with_a_worker_shares_one_key(make_worker, until):
    """The successor records each interrupted request under its own id and all under one key that no caller has."""
    worker = make_worker()
    before, ids = MappedInFlight(worker.directory / "in-flight"), sorted(uuid4().bytes for _ in range(3))
    for variant, some in (("champion", ids[1:]), ("challenger", ids[:1])):
        before.enter(before.bind(Place("m", "r", 3, variant, "2", "ab" * 32, "1.2.3")), some)
    worker.in_flight = type(worker.in_flight)(worker.directory / "in-flight")
    worker.start()
    records = until(lambda: len(found := worker.predictions()) == 3 and found)
    assert [UUID(record.prediction_id).bytes for record in records] == ids
    assert [record.assigned for record in records] == ["challenger", "champion", "champion"]
    assert {(record.outcome, record.is_keyed) for record in records} == {(Outcome.CRASHED, False)}
    assert len({record.assignment_key for record in records}) == 1


def test_bad_member_of_a_batch_harms_no_neighbour(worker, models, until):
    """A row that makes the whole run raise fails alone; those it was joined with are answered."""
    worker.register("m", "1", models.lookup(4), champion=True)
    worker.until_served(until)
    bodies = [[[at % 4]] if at % 8 else [[99]] for at in range(64)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda rows: worker.infer("m", rows, datatype="INT64"), bodies))
    for rows, answer in zip(bodies, answers, strict=True):
        if rows == [[99]]:
            assert answer.status_code == 500
        else:
            assert answer.json()["outputs"][0]["data"] == [float(rows[0][0])]
    outcomes = [record.outcome for record in worker.predictions()]
    assert outcomes.count(Outcome.FAILED) == 8
    assert outcomes.count(Outcome.OK) == 56


def test_version_that_runs_past_the_deadline_is_a_fault(make_worker, models, until):
    """A run past its share of the deadline is answered by the fallback; without one the caller gets a 504 with a record."""
    worker = make_worker(inline_us_max=0.0).start()
    challenged(worker, until, models.identity_row(), models.loop(), deadline_ms=800)
    answer = worker.infer("r", [[2000]])
    assert answer.status_code == 200
    assert answer.json()["parameters"]["variant"] == "good"
    worker.register("m", "3", models.loop(), cost_us=10)
    alone = worker.infer("r", [[2000]], version="3")
    assert alone.status_code == 504
    failed_over, timed_out = worker.predictions()
    assert [tried.outcome for tried in failed_over.attempts] == [Outcome.TIMED_OUT, Outcome.OK]
    assert 580_000 <= failed_over.latency_us <= 1_000_000
    assert (timed_out.outcome, timed_out.prediction_id) == (Outcome.TIMED_OUT, alone.headers["gateway-prediction-id"])


def test_deadline_passes_in_the_queue(make_worker, models, until):
    """What waits past its deadline is told so before it runs, and is no prediction."""
    worker = make_worker(inline_us_max=0.0).start()
    worker.register("m", "1", models.loop(), cost_us=10, champion=True)
    worker.until_served(until)
    busy = threading.Thread(target=lambda: worker.infer("m", [[150]]))
    busy.start()
    until(lambda: not worker.in_flight.is_empty())
    began_s = time.monotonic()
    answer = worker.infer("m", [[0]], parameters={"timeout": 50_000})
    assert answer.status_code == 504
    assert time.monotonic() - began_s < 1
    busy.join()
    assert len(worker.predictions()) == 1


def test_deadline_passes_before_the_next_turn(worker, models, until):
    """A deadline that is over when the turn comes is told so, and nothing runs."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    assert worker.infer("m", [[1, 2, 3, 4]], parameters={"timeout": 1}).status_code == 504
    assert worker.predictions() == []
    assert worker.metric("gateway_batch_rows_bucket", model="m") == 0
    assert worker.metric("gateway_rejected_requests_total", reason="DeadlineExceeded") == 1


def test_full_queue_is_busy(make_worker, models, until):
    """Beyond the bound of rows a request is told to come again, and those that wait are answered."""
    worker = make_worker(inline_us_max=0.0, queue_rows_max=4, batch_rows_max=1).start()
    worker.register("m", "1", models.loop(), cost_us=10, champion=True)
    worker.until_served(until)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: worker.infer("m", [[20]]), range(12)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) >= 4
    assert statuses.count(503) >= 1
    assert set(statuses) == {200, 503}
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 503} == {"1"}
    assert len(worker.predictions()) == statuses.count(200)


def test_expensive_version_leaves_the_loop_free(make_worker, models, until):
    """While an expensive version runs in its thread, the worker answers others."""
    worker = make_worker(inline_us_max=0.0).start()
    worker.register("slow", "1", models.loop(), champion=True)
    worker.until_served(until)
    slow = threading.Thread(target=lambda: worker.infer("slow", [[400]]))
    slow.start()
    until(lambda: not worker.in_flight.is_empty())
    began_s = time.monotonic()
    while not worker.predictions():
        assert worker.client.get("/v2/health/live").status_code == 200
        if worker.predictions():
            break
        assert time.monotonic() - began_s < 5
    slow.join()
    assert worker.metric("gateway_loop_lag_seconds") < 0.5


def test_version_whose_real_rows_are_expensive_leaves_the_loop(worker, models, until):
    """A version that looked cheap while it warmed and is not moves to a thread after a few runs."""
    worker.register("late", "1", models.loop(), champion=True)
    worker.until_served(until)
    for _ in range(4):
        assert "pool late 1" not in {thread.name for thread in threading.enumerate()}
        assert worker.infer("late", [[20]]).json()["outputs"][0]["data"] == [20.0]
    assert "pool late 1" in {thread.name for thread in threading.enumerate()}


def test_request_without_rows_is_answered_without_rows(worker, models, until):
    """An empty tensor is legal and gives an empty answer."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    answer = worker.infer("m", [], shape=[0, 4])
    assert answer.status_code == 200
    assert answer.json()["outputs"][0] == {"name": "y", "shape": [0, 1], "datatype": "FP32", "data": []}


def test_callers_own_timeout_is_no_fault_of_the_version(make_worker, models, until):
    """A caller who asks for less time than the route gives gets a 504, and counts nothing against the version."""
    worker = make_worker(inline_us_max=0.0, faults_max=1).start()
    worker.register("m", "1", models.identity_row(), cost_us=10)
    worker.register("m", "2", models.loop(), cost_us=10)
    variants = [{"name": "good", "version": "1", "weight": 0}, {"name": "slow", "version": "2", "weight": 10_000}]
    worker.route("r", {"model": "m", "variants": variants, "fallback": "slow", "deadline_ms": 5_000})
    worker.until_served(until)
    for _ in range(2):
        assert worker.infer("r", [[300]], parameters={"timeout": 60_000}).status_code == 504
        until(worker.in_flight.is_empty)
    assert [record.outcome for record in worker.predictions()] == [Outcome.ABANDONED] * 2
    assert worker.metric("gateway_version_rests_total") == 0
    assert error_value(worker.predictions()[0]) is None


def test_pinned_failures_do_not_rest_a_version(make_worker, models, until):
    """Anybody may name a version; only what the split sends to it can take it out of rotation."""
    worker = make_worker(faults_max=2).start()
    challenged(worker, until, models.identity_row(), models.root())
    for _ in range(5):
        assert worker.infer("r", [[-1]], version="2").status_code == 500
    assert worker.infer("r", [[9]]).json()["parameters"]["variant"] == "bad"
    assert worker.metric("gateway_version_rests_total") == 0


def test_request_that_was_answered_is_not_recorded_again_by_a_successor(make_worker, models, until, tmp_path):
    """A worker that dies while it still runs what timed out leaves its successor nothing to record: one answer, one record."""
    worker = make_worker(inline_us_max=0.0).start()
    worker.register("m", "1", models.loop(), cost_us=10, champion=True)
    worker.until_served(until)
    answer = worker.infer("m", [[600]], parameters={"timeout": 100_000})
    assert answer.status_code == 504
    assert not worker.in_flight.is_empty()
    (tmp_path / "pages").write_bytes((tmp_path / "in-flight").read_bytes())  # what the kernel keeps of a killed process
    assert list(MappedInFlight(tmp_path / "pages").left_behind()) == []
    [record] = worker.predictions()
    assert record.prediction_id == answer.headers["gateway-prediction-id"]
    worker.stop()
    assert list(MappedInFlight(tmp_path / "in-flight").left_behind()) == []
