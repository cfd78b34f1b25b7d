"""A route's health: its worst part decides, each part says why, and what is not known is not called good."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.health import Seen
from gateway.core.health import ColdFacts, DriftFacts, Level, RefusalFacts, RolloutFacts, RouteFacts, VersionFacts, health, worst
from gateway.core.plans import Plan
from gateway.core.rollouts import RolloutState, begin
from gateway.core.routes import champion_route

SOUND = VersionFacts("1", predictions=10_000, error_rate=0.0, latency_ms=2.0, truths=500, mean_loss=0.1)
PEER = replace(SOUND, version="0")
WELL = RouteFacts(age_s=1.0, deadline_ms=1_000, versions=(SOUND, PEER), drift=DriftFacts(2_000, 20))


def part(facts: RouteFacts, name: str):
    """Return one part of a route's health."""
    return next(one for one in health(facts).parts if one.name == name)


def test_health_of_a_sound_route_is_good():
    """With traffic and outcomes of two versions and a training sample, and nothing wrong, every part is good and has numbers."""
    found = health(WELL)

    assert found.level is Level.GOOD
    assert {one.level for one in found.parts} == {Level.GOOD}
    assert "0 of 10,000" in part(WELL, "errors").evidence


def test_health_is_not_averaged():
    """A challenger that always fails makes the route critical, though it is a hundredth of the traffic."""
    bad = VersionFacts("2", predictions=100, error_rate=1.0)
    facts = RouteFacts(age_s=1.0, deadline_ms=1_000, versions=(SOUND, bad), drift=WELL.drift)

    assert health(facts).level is Level.CRITICAL
    assert part(facts, "errors").evidence == "version 2: 100 of 100 predictions failed in the last hour"
    assert health(facts).body()["parts"][0]["part"] == "errors"


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (RouteFacts(age_s=1.0, deadline_ms=1_000), "errors"),
        (RouteFacts(age_s=1.0, deadline_ms=1_000, versions=(VersionFacts("1", predictions=5, error_rate=0.0),)), "errors"),
        (RouteFacts(age_s=1.0, deadline_ms=1_000, versions=(SOUND,)), "drift"),
        (RouteFacts(age_s=1.0, deadline_ms=1_000, drift=DriftFacts(0, 20)), "drift"),
        (RouteFacts(age_s=1.0, deadline_ms=1_000, drift=DriftFacts(0, 0)), "drift"),
        (RouteFacts(age_s=1.0, deadline_ms=1_000, versions=(VersionFacts("1", truths=10, mean_loss=0.1),)), "quality"),
        (RouteFacts(age_s=90.0, deadline_ms=1_000, versions=(SOUND,), drift=WELL.drift), "errors"),
        (RouteFacts(age_s=None, deadline_ms=1_000, versions=(SOUND,), drift=WELL.drift), "drift"),
    ],
)
def test_health_that_is_not_known_is_unknown(facts, name):
    """No or too little traffic, no training sample, no ground truth, or a silent monitor: unknown, and neither good nor bad."""
    assert part(facts, name).level is Level.UNKNOWN
    assert health(facts).level is Level.UNKNOWN


def test_health_sees_a_route_that_refuses_everybody():
    """Refusals have no record: what the workers counted makes the route critical, with a silent monitor too, and says why."""
    refusals = RefusalFacts(300.0, 40, (("LoadFailed", 30), ("NotReady", 10)))
    said = "the gateway refused 40 of 40 requests of the last 300 s: LoadFailed 30, NotReady 10"
    for facts in (WELL, replace(WELL, age_s=None), replace(WELL, versions=())):
        found = part(replace(facts, refusals=refusals), "errors")
        assert (found.level, found.evidence.partition(";")[0]) == (Level.CRITICAL, said)


@pytest.mark.parametrize(
    ("refused", "requests", "level"),
    [(2, 2, Level.GOOD), (3, 10_000, Level.GOOD), (10, 10_000, Level.WARNING), (100, 10_000, Level.CRITICAL)],
)
def test_health_judges_refusals_as_failures(refused, requests, level):
    """Two are chance; a share above the objective is a warning, ten times it critical; the failures stand beside them."""
    found = part(replace(WELL, refusals=RefusalFacts(300.0, requests, (("NotReady", refused),))), "errors")
    assert found.level is level
    assert f"refused {refused:,} of {requests:,}" in found.evidence
    assert "version 1: 0 of 10,000 predictions failed in the last hour" in found.evidence


def test_health_of_few_refusals_is_not_better_known():
    """What is unknown stays so where refusals are too few to say, and a failing version is no better for them."""
    few = RefusalFacts(300.0, 9_000, (("NotReady", 1),))
    failing = replace(SOUND, error_rate=0.5)
    assert part(replace(WELL, versions=(), refusals=few), "errors").level is Level.UNKNOWN
    assert part(replace(WELL, versions=(failing,), refusals=few), "errors").level is Level.CRITICAL


def test_health_warns_of_a_version_that_is_not_loaded():
    """Before anybody is refused, and while a fallback answers: which version, on which workers, and why; refusals come first."""
    cold = replace(WELL, cold=(ColdFacts("2", ("w0", "w1"), "no such provider"),))
    found = part(cold, "errors")
    assert (found.level, found.evidence.partition(";")[0]) == (
        Level.WARNING,
        "version 2 is not loaded on w0, w1: no such provider",
    )
    assert "0 of 10,000 predictions failed" in found.evidence
    refusing = part(replace(cold, refusals=RefusalFacts(300.0, 40, (("NotReady", 40),))), "errors")
    assert (refusing.level, refusing.evidence.partition(" ")[0]) == (Level.CRITICAL, "the")
    assert "no such provider" in refusing.evidence


def test_health_takes_no_chance_for_a_fault():
    """Two failures among many are chance; a rate above the objective is a warning, ten times it critical."""
    for error_rate, level in ((2 / 1_000, Level.GOOD), (5 / 1_000, Level.WARNING), (10 / 1_000, Level.CRITICAL)):
        version = VersionFacts("1", predictions=1_000, error_rate=error_rate)
        assert part(RouteFacts(age_s=0.0, deadline_ms=1_000, versions=(version,)), "errors").level is level


def test_health_names_the_features_that_drifted():
    """Drift is a warning that says how many features and which."""
    found = part(RouteFacts(age_s=0.0, deadline_ms=1_000, drift=DriftFacts(2_000, 20, ("age", "fare"))), "drift")

    assert (found.level, found.evidence) == (Level.WARNING, "2 of 20 features drifted: age, fare")


@pytest.mark.parametrize(
    ("drift", "evidence"),
    [
        (
            DriftFacts(2_000, 20, incidents=("first", "unlike training: log e 14.2")),
            "drift incidents open: 2, the newest unlike training: log e 14.2",
        ),
        (DriftFacts(0, 0, incidents=("errors: more",)), "drift incidents open: 1, the newest errors: more"),
        (DriftFacts(2_000, 20, departed=("inputs", "loss")), "unlike the reference still: inputs, loss"),
        (
            DriftFacts(2_000, 20, ("age",), ("inputs",), ("why",)),
            "1 of 20 features drifted: age; drift incidents open: 1, the newest why; unlike the reference still: inputs",
        ),
    ],
)
def test_health_warns_of_drift_that_any_watch_is_sure_of(drift, evidence):
    """An open incident and a departure are a warning that says why, whether or not an index was looked at."""
    found = part(replace(WELL, drift=drift), "drift")
    assert (found.level, found.evidence) == (Level.WARNING, evidence)


def test_health_compares_losses_of_versions():
    """A version whose answers are clearly worse than another's of the same hour is a warning, whatever a third lacks."""
    worse = VersionFacts("2", truths=500, mean_loss=0.3)
    for versions in ((SOUND, worse), (SOUND, worse, VersionFacts("3"))):
        assert part(RouteFacts(age_s=0.0, deadline_ms=1_000, versions=versions), "quality").level is Level.WARNING


@pytest.mark.parametrize(
    ("versions", "why"),
    [
        (
            (replace(SOUND, mean_loss=0.97),),
            "there is no other version to compare with version 1: mean loss 0.97 over 500 outcomes",
        ),
        ((SOUND, VersionFacts("2", truths=10, mean_loss=0.9)), "too few outcomes of version 2 came"),
        ((SOUND, VersionFacts("2")), "too few outcomes of version 2 came"),
        ((SOUND, PEER, VersionFacts("2"), VersionFacts("3")), "too few outcomes of version 2, 3 came"),
    ],
)
def test_health_of_a_loss_that_was_compared_with_nothing_is_unknown(versions, why):
    """A version alone, or beside one of which too few outcomes came, is not called good, however low or high its loss."""
    found = part(replace(WELL, versions=versions), "quality")

    assert (found.level, why in found.evidence) == (Level.UNKNOWN, True), found.evidence


def test_health_of_one_version_within_the_deadline_is_good_in_latency():
    """The deadline is enough to judge a version by; no second one is missing."""
    found = part(replace(WELL, versions=(SOUND,)), "latency")
    assert (found.level, "no other version to compare with" in found.evidence) == (Level.GOOD, True)
    assert "no other version" not in part(WELL, "latency").evidence


@pytest.mark.parametrize(
    ("rollout", "level"),
    [
        (RolloutFacts(RolloutState.CANARY), Level.GOOD),
        (RolloutFacts(RolloutState.CANARY, failed=("loss",)), Level.CRITICAL),
        (RolloutFacts(RolloutState.BAKING, failed=("loss",)), Level.CRITICAL),
        (RolloutFacts(RolloutState.AWAITING_APPROVAL, failed=("loss",)), Level.CRITICAL),
        (RolloutFacts(RolloutState.SHADOW, failed=("loss",)), Level.GOOD),
        (RolloutFacts(RolloutState.HELD, "by hand"), Level.WARNING),
        (RolloutFacts(RolloutState.QUARANTINED, "loss", ("loss",), 3_600.0), Level.WARNING),
        (RolloutFacts(RolloutState.QUARANTINED, "loss", ("loss",), 100_000.0), Level.GOOD),
        (RolloutFacts(RolloutState.LIVE), Level.GOOD),
    ],
)
def test_health_of_a_rollout_is_that_of_what_answers(rollout, level):
    """A failed challenger that still answers is critical; one that is held is a warning, as is for a day one rolled back."""
    facts = replace(WELL, rollout=rollout)
    assert part(facts, "rollout").level is level
    assert health(facts).level is level


@pytest.mark.parametrize(
    ("hours", "level", "when"), [(1, "warning", "just now"), (30, "good", "30 hours ago"), (72, "good", "3 days ago")]
)
def test_health_warns_of_a_rollback_by_the_gateway_for_a_day(hours, level, when):
    """It counts from when the rollout came into its state, and the evidence says how long ago that was."""
    begun, route = begin(champion_route("delays", "1"), id="r1", challenger="2", plan=Plan(), salt="s", now_s=1e6)
    ended = replace(begun, state=RolloutState.QUARANTINED, changed_at_s=2e6, reason="loss")
    [shown] = [
        one for one in Seen(None, {}, {}, 2e6 + hours * 3_600).health(route, ended).body()["parts"] if one["part"] == "rollout"
    ]
    assert (shown["level"], when in shown["evidence"]) == (level, True)


@given(st.lists(st.sampled_from(Level), min_size=1))
def test_worst_level_is_one_of_them_and_hides_none(levels):
    """The worst is critical if any is, else a warning if any is, else unknown if any is."""
    order = (Level.CRITICAL, Level.WARNING, Level.UNKNOWN, Level.GOOD)
    assert worst(levels) is next(level for level in order if level in levels)


@pytest.mark.parametrize(
    ("latency_ms", "level", "evidence"),
    [
        (3.9, Level.GOOD, "version 2: 3.9 ms a prediction"),
        (9.0, Level.GOOD, "version 2: 9 ms a prediction"),
        (11.0, Level.WARNING, "version 2 is 5.5 times as slow as 1: "),
        (501.0, Level.WARNING, "version 2 takes over half of the 1000 ms that callers wait: "),
        (None, Level.UNKNOWN, "too few predictions of version 2 in the last hour to say: version 1: 2 ms a prediction"),
    ],
)
def test_health_compares_latency_with_the_deadline_and_the_other_version(latency_ms, level, evidence):
    """Twice as slow as the other is a warning once callers would notice, and so is half of what they wait for at most."""
    other = VersionFacts("2", predictions=100, error_rate=0.0, latency_ms=latency_ms)
    found = part(replace(WELL, versions=(SOUND, other)), "latency")

    assert (found.level, evidence in found.evidence) == (level, True), found.evidence
