"""Every claim of the demonstration can fail, and does when what it says is not so."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import orjson
import pytest

from gateway.core.audit import AuditEntry
from gateway.demo import summary
from gateway.demo.flights import Flights
from gateway.demo.replay import Given, Ledger
from gateway.demo.story import Marks
from gateway.demo.summary import LogView, read_log

FLIGHTS = Flights(
    features=np.zeros((8, 1), np.float32),
    is_late=np.array([True] * 4 + [False] * 4),
    arrives=np.ones(8, np.bool_),
    departure_s=np.arange(8.0),
    arrival_s=np.arange(8.0) + 0.5,
    tails=["N1"] * 8,
)


def given(flight: int, version: str, time_s: float, probability: float = 1.0) -> Given:
    """One answer."""
    return Given(flight, f"id-{flight}", version, "champion", probability, time_s)


def story() -> tuple[Ledger, LogView, Marks, AuditEntry]:
    """Return a story that went well: 1 alone, 2 promoted at 20 s, 3 from 30 s until its rollback at 31 s."""
    answers = [
        given(0, "1", 1.0),
        given(1, "2", 15.0),
        given(2, "2", 25.0),
        given(3, "3", 30.5, probability=0.0),
        given(4, "2", 30.6, probability=0.0),
        given(5, "2", 40.0, probability=0.0),
    ]
    ledger = Ledger(given=answers, truths=6)
    live = {one.prediction_id: one.version for one in answers}
    log = LogView(live, 0, Counter({"2": 3}), [], 6, {(1, "key"): {"champion"}})
    champion = {"variants": [{"name": "champion", "version": "2", "weight": 10_000}]}
    marks = Marks(
        shadow_s=5.0,
        sound_s=10.0,
        promoted_s=20.0,
        faulty_s=30.0,
        over_s=32.0,
        sound={"state": "LIVE"},
        faulty={"state": "QUARANTINED"},
        route_before_faulty=champion,
    )
    entry = AuditEntry(1, 31.0, "monitor", "rollout.convict", "rollout:x", "loss", "d", evidence={"log_e": 6.0})
    return ledger, log, marks, entry


class Admin:
    """What the claims ask of the admin API: the route as it is at the end."""

    def __init__(self, version: str = "2") -> None:
        self._version = version

    def route(self, _name: str) -> dict[str, object]:
        """Return the route."""
        return {"variants": [{"name": "champion", "version": self._version, "weight": 10_000}]}


def failed(
    ledger: Ledger, log: LogView, marks: Marks, entry: AuditEntry | None, *, version: str = "2", files: int = 1
) -> set[str]:
    """Return the sentences that did not hold."""
    claims = [
        *summary._traffic_claims(ledger, log),
        *summary._operator_claims(ledger, marks, log),
        *summary._monitor_claims(FLIGHTS, ledger, marks, entry, Admin(version)),
        *summary._keeping_claims([], ledger, log, files),
    ]
    return {claim.sentence for claim in claims if not claim.held}


def test_claims_hold_for_a_story_that_went_well():
    """Nothing is reported where everything happened."""
    assert failed(*story()) == set()


def _without_a_record(ledger, log, marks, entry):
    return ledger, replace(log, live={id: version for id, version in log.live.items() if id != "id-2"}), marks, entry


def _with_a_record_too_many(ledger, log, marks, entry):
    return ledger, replace(log, live={**log.live, "other": "1"}), marks, entry


def _with_a_record_twice(ledger, log, marks, entry):
    return ledger, replace(log, repeats=1), marks, entry


def _with_another_version_in_the_log(ledger, log, marks, entry):
    return ledger, replace(log, live={**log.live, "id-0": "2"}), marks, entry


def _with_a_failed_request(ledger, log, marks, entry):
    return replace(ledger, failed=1), log, marks, entry


def _with_a_key_that_changed_variant(ledger, log, marks, entry):
    return ledger, replace(log, variants={(1, "key"): {"champion", "challenger"}}), marks, entry


def _without_shadows(ledger, log, marks, entry):
    return ledger, replace(log, shadows=Counter()), marks, entry


def _without_promotion(ledger, log, marks, entry):
    return ledger, log, replace(marks, sound={"state": "CANARY"}), entry


def _without_conviction(ledger, log, marks, entry):
    return ledger, log, marks, None


def _rolled_back_by_a_person(ledger, log, marks, entry):
    return ledger, log, replace(marks, faulty={"state": "ROLLED_BACK"}), entry


def _without_evidence(ledger, log, marks, entry):
    return ledger, log, marks, replace(entry, evidence={})


def _with_a_late_bad_answer(ledger, log, marks, entry):
    late = given(6, "3", 32.5, probability=1.0)
    return replace(ledger, given=[*ledger.given, late]), replace(log, live={**log.live, "id-6": "3"}), marks, entry


def _with_a_lost_outcome(ledger, log, marks, entry):
    return ledger, replace(log, truths=5), marks, entry


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_without_a_record, "every answer is in the log exactly once, and nothing else is"),
        (_with_a_record_too_many, "every answer is in the log exactly once, and nothing else is"),
        (_with_a_record_twice, "every answer is in the log exactly once, and nothing else is"),
        (_with_another_version_in_the_log, "each record names the version that the caller was told"),
        (_with_a_failed_request, "every request was answered"),
        (_with_a_key_that_changed_variant, "an aircraft never changed variant between two route changes"),
        (_without_shadows, "version 2 ran in the shadow without answering anyone"),
        (_without_promotion, "version 2 became champion"),
        (_without_conviction, "the monitor rolled version 3 back by itself"),
        (_rolled_back_by_a_person, "the monitor rolled version 3 back by itself"),
        (_without_evidence, "its audit entry holds the evidence"),
        (_with_a_late_bad_answer, "no answer of version 3 came later than 1 s after its rollback"),
        (_with_a_lost_outcome, "every outcome that was posted is in the log"),
    ],
)
def test_claims_fail_when_they_are_not_so(change, expected):
    """One thing that did not happen makes its claim fail."""
    assert expected in failed(*change(*story()))


def test_claims_see_a_bad_version_left_on_the_route_and_an_empty_archive():
    """A route that ends on another version, and an archive without files, are reported."""
    assert failed(*story(), version="3", files=0) == {
        "version 2 answered on alone",
        "closed segments are in the archive as Parquet",
    }


def test_log_is_read_as_plain_files(tmp_path):
    """Live answers, shadows, outcomes and repeats are told apart; version 1 in the shadow of 2 is no copy of 2."""
    live = {"type": "prediction", "kind": "live", "prediction_id": "a", "version": "1", "revision": 1, "assigned": "champion"}
    live |= {"assignment_key": "k", "outcome": "ok"}
    copy = {**live, "kind": "shadow", "prediction_id": "b", "version": "2", "shadow_of": "a"}
    copy["outputs"] = [{"name": "probabilities", "data": [0.75, 0.25]}]
    later = {**copy, "prediction_id": "c", "version": "1"}
    lines = [live, live, copy, later, {"type": "ground_truth"}, {"type": "heartbeat"}]
    (tmp_path / "w0").mkdir()
    (tmp_path / "w0" / "00000000000000000000.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\n   \n")

    view = read_log(tmp_path)

    assert view.live == {"a": "1"}
    assert (view.repeats, view.truths) == (1, 1)
    assert view.shadows == Counter({"2": 1, "1": 1})
    assert view.copies == [("a", 0.25)]
    assert view.variants == {(1, "k"): {"champion"}}
