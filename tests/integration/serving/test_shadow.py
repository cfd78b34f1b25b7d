"""Copies for shadows: run, recorded, bounded, and never in the caller's way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from gateway.core.records import Kind, Outcome
from gateway.core.split import SLOTS, slot_of

VARIANTS = [{"name": "a", "version": "1", "weight": 10_000}]


def shadowed(worker, until, live, shadow, fraction: float = 1.0):
    """Serve `r` with a shadow `s`."""
    worker.register("m", "1", live)
    worker.register("m", "2", shadow, cost_us=10)
    worker.route("r", {"model": "m", "variants": VARIANTS, "shadows": [{"name": "s", "version": "2", "fraction": fraction}]})
    worker.until_served(until)


def test_shadow_gets_a_copy_and_its_answer_is_discarded(worker, models, until):
    """The caller hears only the live variant; the shadow's record names the live prediction."""
    shadowed(worker, until, models.linear(), models.linear(scale=2.0))
    answer = worker.infer("r", [[1, 2, 3, 4]], headers={"Gateway-Assignment-Key": "k"})
    assert answer.json()["outputs"][0]["data"] == [10.0]
    until(lambda: len(worker.predictions()) == 2)
    live, shadow = worker.predictions()
    assert (shadow.kind, shadow.shadow_of, shadow.variant, shadow.assigned) == (Kind.SHADOW, live.prediction_id, "s", "s")
    assert shadow.prediction_id != live.prediction_id
    assert shadow.outputs[0].data.tolist() == [[20.0]]
    assert (shadow.assignment_key, shadow.is_keyed) == (live.assignment_key, True)
    assert worker.metric("gateway_predictions_total", kind="shadow", variant="s", outcome="ok") == 1


def test_failing_shadow_is_recorded_and_harms_nobody(worker, models, until):
    """A shadow that fails leaves a record of its failure; the live answer is right."""
    shadowed(worker, until, models.identity_row(), models.root())
    assert worker.infer("r", [[-1]]).json()["outputs"][0]["data"] == [-1.0]
    until(lambda: len(worker.predictions()) == 2)
    assert worker.predictions()[1].outcome is Outcome.INVALID


def test_fraction_is_decided_by_the_prediction_id(worker, models, until):
    """Which predictions are copied follows from their ids, and their share is the fraction."""
    shadowed(worker, until, models.linear(), models.linear(), 0.3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: worker.infer("r", [[1, 2, 3, 4]]), range(200)))
    live = [record for record in worker.predictions() if record.kind is Kind.LIVE]
    chosen = {record.prediction_id for record in live if slot_of("s", record.prediction_id) < 0.3 * SLOTS}
    until(lambda: len(worker.predictions()) == 200 + len(chosen))
    assert {record.shadow_of for record in worker.predictions() if record.kind is Kind.SHADOW} == chosen
    assert 30 <= len(chosen) <= 95


def test_full_shadow_queue_drops_the_copy_and_the_caller_does_not_wait(make_worker, models, until):
    """Beyond the bound a copy is dropped and counted, and every live request is answered."""
    worker = make_worker(inline_us_max=1_000.0, shadow_queue_max=2).start()
    shadowed(worker, until, models.identity_row(), models.loop())
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: worker.infer("r", [[5]]), range(120)))
    assert {answer.status_code for answer in answers} == {200}

    def is_accounted() -> bool:
        copies = sum(record.kind is Kind.SHADOW for record in worker.predictions())
        return copies + worker.metric("gateway_shadow_dropped_total", route="r", variant="s") == 120

    until(is_accounted)
    assert worker.metric("gateway_shadow_dropped_total") > 0


def test_copies_hold_no_more_than_so_many_bytes(make_worker, models, until):
    """A copy whose inputs find no room in bytes is dropped and counted; what ran makes room for the next."""
    worker = make_worker(shadow_queue_bytes_max=16).start()
    shadowed(worker, until, models.linear(), models.linear())
    for answered in (1, 2):
        assert worker.infer("r", [[1, 2, 3, 4]]).status_code == 200
        until(lambda copied=answered: len(worker.predictions()) == 2 * copied)
    assert worker.metric("gateway_shadow_dropped_total") == 0
    assert worker.infer("r", [[1, 2, 3, 4], [5, 6, 7, 8]]).status_code == 200
    assert worker.metric("gateway_shadow_dropped_total", route="r", variant="s") == 1


def test_pinned_requests_are_not_copied(worker, models, until):
    """A shadow sees what the split routes, nothing else."""
    shadowed(worker, until, models.linear(), models.linear())
    worker.infer("r", [[1, 2, 3, 4]], version="1")
    worker.infer("r", [[1, 2, 3, 4]])
    until(lambda: len(worker.predictions()) == 3)
    assert [record.kind for record in worker.predictions()] == [Kind.PINNED, Kind.LIVE, Kind.SHADOW]
