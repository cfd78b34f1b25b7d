"""When a model is to be trained anew, and what whoever trains is told."""

from __future__ import annotations

import pytest

from gateway.core.attribution import Attribution
from gateway.core.evidence import Evidence, EvidencePlan
from gateway.core.guardrails import Finding, Verdict
from gateway.core.hindsight import LOSS, RAILS
from gateway.core.retraining import Rise, attributed_rise, event_data

RISE = Rise("2", 1_700_000_000.0, 0.31, 0.2, 0.22, 212, 14.7, 14.5)


def paired(verdict: Verdict) -> list[Finding]:
    return [Finding(RAILS[LOSS], verdict, Evidence(EvidencePlan()).reading(), "reason")]


@pytest.mark.parametrize(
    ("findings", "is_compared", "is_broken", "expected", "says"),
    [
        ([], False, False, Attribution.WORLD, "no other version answers"),
        ([], True, False, Attribution.WORLD, "no challenger explains it"),
        (paired(Verdict.PASS), False, False, Attribution.WORLD, "does no better"),
        (paired(Verdict.FAIL), False, False, Attribution.VERSION, "the version before does better"),
        (paired(Verdict.INCONCLUSIVE), False, False, Attribution.NONE, "not known yet"),
        (paired(Verdict.PASS), False, True, Attribution.DATA, "mend the feed"),
    ],
)
def test_rise_is_the_worlds_where_neither_a_version_nor_the_feed_is_to_blame(findings, is_compared, is_broken, expected, says):
    """Only a rise of the world's is a reason to train anew; what is not known yet is waited for."""
    found = attributed_rise(RISE, findings, is_compared=is_compared, is_broken=is_broken)
    assert found.attribution is expected
    assert says in found.why
    assert "0.31 over 212 outcomes, 0.2 before, bound 0.22, log e 14.7 of 14.5" in found.why


def test_event_names_the_recent_data_with_a_command_that_is_safe_to_run():
    """The command exports the time of the rise, and a route's name that a shell would read otherwise is quoted."""
    evidence = {"since_s": 1_700_000_000.0, "until_s": 1_700_003_600.5, "attribution": "WORLD"}
    data = event_data("a b;c", evidence)
    assert data["since"] == "2023-11-14T22:13:20.000Z"
    span = "--since 2023-11-14T22:13:20.000Z --until 2023-11-14T23:13:20.500Z"
    assert data["export"] == f"headgate predictions export 'a b;c.parquet' --route 'a b;c' {span}"
