"""Where a change comes from: each attribution with its sentence, and a variant's own past."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from gateway.core.arrivals import ArrivalReading
from gateway.core.attribution import Attribution, Move, PastWatch, attribute, attributed_body
from gateway.core.evidence import Evidence, EvidencePlan, ShareTest
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Finding, Verdict

ERRORS = DEFAULT_GUARDRAILS[0]
SOUND = ShareTest().reading()
BROKEN = replace(SOUND, log_e_best=SOUND.bound, keys=100, challenger_keys=50, share=0.1)
READING = replace(
    Evidence(EvidencePlan()).reading(), champion_mean=0.1, challenger_mean=0.4, lower=0.2, upper=0.4, log_e_best=6.0, bound=5.0
)
STEADY, RISEN = Move(0.1, 0.1, bound=0.2), Move(0.1, 0.25, bound=0.2)
NONE, VERSION, WORLD, DATA = Attribution.NONE, Attribution.VERSION, Attribution.WORLD, Attribution.DATA


@pytest.mark.parametrize(
    ("verdict", "srm", "move", "frozen_by", "expected", "says"),
    [
        (Verdict.PASS, SOUND, STEADY, NONE, NONE, "nothing moved"),
        (Verdict.INCONCLUSIVE, SOUND, None, NONE, NONE, "nothing moved"),
        (Verdict.FAIL, SOUND, STEADY, NONE, VERSION, "0.4 against the champion's 0.1"),
        (Verdict.FAIL, SOUND, RISEN, WORLD, VERSION, "0.25 of late is in both"),
        (Verdict.INCONCLUSIVE, SOUND, RISEN, NONE, WORLD, "0.1 before, 0.25 of late"),
        (Verdict.PASS, SOUND, STEADY, WORLD, WORLD, "drift incident"),
        (Verdict.PASS, SOUND, STEADY, DATA, DATA, "drift incident"),
        (Verdict.FAIL, BROKEN, RISEN, WORLD, Attribution.ASSIGNMENT, "50 of 100 keys went to the challenger, 10.00%"),
    ],
)
def test_attribution_of_a_finding_is_as_the_rules_say(verdict, srm, move, frozen_by, expected, says):  # noqa: PLR0917
    """A broken split voids all, a concurrent difference blames the version, what both share is the world's or the data's."""
    found = attribute(Finding(ERRORS, verdict, READING, "reason"), srm=srm, doubt="", move=move, frozen_by=frozen_by)

    assert found.attribution is expected
    assert says in found.why


def test_attributed_body_is_the_finding_with_its_attribution():
    """What is stored names the guardrail's own move, not another's."""
    finding = Finding(ERRORS, Verdict.INCONCLUSIVE, READING, "reason")
    body = attributed_body(finding, srm=SOUND, truth=ArrivalReading(), moves={"loss": RISEN, ERRORS.name: STEADY}, frozen_by=NONE)

    assert body == {**finding.body(), "attribution": "NONE", "why": "nothing moved by more than chance"}
    json.dumps(body, allow_nan=False)


def test_doubtful_ground_truth_voids_what_needs_it_alone():
    """Corrected ground truth makes a failed loss ASSIGNMENT's; errors need none and still blame the version."""
    doubtful = ArrivalReading(values=100, corrected=50)
    bodies = [
        attributed_body(Finding(rail, Verdict.FAIL, READING, "reason"), srm=SOUND, truth=doubtful, moves={}, frozen_by=NONE)
        for rail in DEFAULT_GUARDRAILS
    ]

    assert {body["measure"]: body["attribution"] for body in bodies} == {"errors": "VERSION", "loss": "ASSIGNMENT"}
    assert "50 of 100 values" in str(bodies[1]["why"])


def has_risen(watch: PastWatch) -> bool:
    move = watch.move()
    return move is not None and move.has_risen


def test_past_rises_with_a_change_and_not_by_chance() -> None:
    """A champion that goes from 5 to 15 % is seen; one that stays at 5 % is not, in 20,000 outcomes."""
    rng = random.Random(1)
    watch = PastWatch()
    for _ in range(20_000):
        watch.observe(float(rng.random() < 0.05))
        assert not has_risen(watch)
    for _ in range(200):
        watch.observe(float(rng.random() < 0.15))
    assert has_risen(watch)


def test_past_says_nothing_before_it_knows_enough() -> None:
    """The first outcomes are nobody's past."""
    watch = PastWatch()
    for _ in range(399):
        watch.observe(1.0)
        assert not has_risen(watch)


def test_past_restored_goes_on_exactly() -> None:
    """State survives JSON."""
    past, rng = PastWatch(), random.Random(2)
    for _ in range(777):
        past.observe(rng.random())
    again = PastWatch.restored(json.loads(json.dumps(past.state())))

    assert again.state() == past.state()
    assert again.move() == past.move() is not None
