"""The rollout's state machine, and what each event does to the route."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import IllegalTransition, MalformedRequest
from gateway.core.guardrail_bodies import guardrail_body
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Guardrail, Measure
from gateway.core.plans import (
    WAIT_S_MAX,
    HoldOutcome,
    Inconclusive,
    Plan,
    ShadowPhase,
    Step,
    plan_body,
    plan_from_body,
)
from gateway.core.rollouts import (
    ENDED,
    TRANSITIONS,
    Event,
    Rollout,
    RolloutState,
    apply_event,
    begin,
    moved_champion,
    next_state,
    rollout_body,
    rollout_from_body,
)
from gateway.core.routes import Revision, Route, Shadow, Variant, route_body, stored_route, with_weights
from gateway.core.split import SLOTS

LEGAL = """
SHADOW advance CANARY
SHADOW hold HELD
SHADOW rollback ROLLED_BACK
SHADOW give_up ROLLED_BACK
SHADOW convict QUARANTINED
CANARY advance CANARY
CANARY bake BAKING
CANARY hold HELD
CANARY promote LIVE
CANARY rollback ROLLED_BACK
CANARY give_up ROLLED_BACK
CANARY convict QUARANTINED
BAKING ask AWAITING_APPROVAL
BAKING hold HELD
BAKING promote LIVE
BAKING rollback ROLLED_BACK
BAKING give_up ROLLED_BACK
BAKING convict QUARANTINED
AWAITING_APPROVAL approve LIVE
AWAITING_APPROVAL rollback ROLLED_BACK
AWAITING_APPROVAL give_up ROLLED_BACK
AWAITING_APPROVAL convict QUARANTINED
HELD resume CANARY
HELD promote LIVE
HELD rollback ROLLED_BACK
HELD give_up ROLLED_BACK
HELD convict QUARANTINED
LIVE rollback ROLLED_BACK
LIVE convict QUARANTINED
LIVE settle LIVE
"""
LOSS_ALONE = Guardrail("wrong", Measure.LOSS, alpha_share=1.0, margin=0.2, harm=0.03, samples_min=7, is_required=True)
LOSS_BODY = guardrail_body(LOSS_ALONE)
ROWS = {(RolloutState(a), Event(b)): RolloutState(c) for a, b, c in map(str.split, LEGAL.strip().splitlines())}


def route(**fields) -> Route:
    made = with_weights(Route("delays", "delays", (), salt="old", revision=Revision(4)), (Variant("first", "1", SLOTS),))
    return replace(made, **fields)


def begun(standing: Route | None = None, plan: Plan | None = None) -> tuple[Rollout, Route]:
    return begin(standing or route(), id="r1", challenger="2", plan=plan or Plan(), salt="new", now_s=10.0)


def at(state: RolloutState) -> tuple[Rollout, Route]:
    """Return a rollout in a state, with a route that has it open where it is."""
    rollout, split = begun()
    held_in = RolloutState.CANARY if state is RolloutState.HELD else None
    return replace(rollout, state=state, held_in=held_in), split if state not in ENDED else replace(split, rollout="")


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RolloutState, Event)))
def test_rollout_does_what_the_table_says_and_nothing_else(state, event):
    """Each of the 88 pairs either leads where the table says or raises and changes nothing."""
    rollout, split = at(state)
    before = (rollout_body(rollout), route_body(split))
    if (wanted := ROWS.get((state, event))) is None:
        with pytest.raises(IllegalTransition):
            next_state(state, event)
        with pytest.raises(IllegalTransition):
            apply_event(rollout, split, event, reason="", now_s=11.0)
        assert (rollout_body(rollout), route_body(split)) == before
    else:
        assert next_state(state, event, held_in=rollout.held_in) is wanted
        moved, _ = apply_event(rollout, split, event, reason="why", now_s=11.0)
        assert (moved.state, moved.started_at_s) == (wanted, 10.0)
        assert (moved.reason, moved.changed_at_s) == (("", 10.0) if event is Event.SETTLE else ("why", 11.0))


def test_rollout_table_is_the_one_written_here():
    """A row that is added to the table is added to this page too."""
    assert {row: after or RolloutState.CANARY for row, after in TRANSITIONS.items()} == ROWS
    assert [row for row, after in TRANSITIONS.items() if after is None] == [(RolloutState.HELD, Event.RESUME)]


@pytest.mark.parametrize("state", [RolloutState.SHADOW, RolloutState.CANARY, RolloutState.BAKING])
def test_rollout_resumes_where_it_was_held(state):
    """A hold leads back to the state it began in, whose time begins anew."""
    rollout, split = at(state)
    held, split = apply_event(rollout, split, Event.HOLD, reason="look", now_s=20.0)
    assert (held.state, held.since_s) == (RolloutState.HELD, 10.0)
    resumed, _ = apply_event(held, split, Event.RESUME, reason="", now_s=30.0)
    assert (resumed.state, resumed.since_s, resumed.held_in) == (state, 30.0, None)


def test_rollout_with_a_shadow_phase_begins_without_callers():
    """The challenger sees copies first, then it takes the first step's share and the copies end."""
    rollout, split = begun(route(shadows=(Shadow("t", "3", 1.0),)), Plan(shadow=ShadowPhase(0.5)))
    assert rollout.state is RolloutState.SHADOW
    assert split.variants == (Variant("champion", "1", SLOTS),)
    assert split.shadows == (Shadow("t", "3", 1.0), Shadow("challenger", "2", 0.5))
    moved, split = apply_event(rollout, split, Event.ADVANCE, reason="", now_s=20.0)
    assert (moved.state, moved.step, moved.since_s) == (RolloutState.CANARY, 0, 20.0)
    assert Counter(split.owners) == {"champion": 9_000, "challenger": 1_000}
    assert split.shadows == (Shadow("t", "3", 1.0),)


def test_promotion_keeps_the_version_before_in_the_shadow():
    """It is warm and sees copies until the cool-down is over, a rollback or the next rollout begins."""
    promoted, split = apply_event(*begun(), Event.PROMOTE, reason="good", now_s=20.0)
    assert promoted.cools_until_s == 20.0 + promoted.plan.cool_down_s
    assert split.shadows == (Shadow("previous", "1", promoted.plan.cool_down_fraction),)
    assert promoted.is_watched
    settled, after = apply_event(promoted, split, Event.SETTLE, reason="", now_s=9_999.0)
    assert (after.shadows, settled.is_watched, settled.reason) == ((), False, "good")
    back, after = apply_event(promoted, split, Event.CONVICT, reason="", now_s=30.0)
    assert (after.shadows, after.variants, back.cools_until_s) == ((), (Variant("champion", "1", SLOTS),), 0.0)
    _, after = begin(split, id="r2", challenger="3", plan=Plan(), salt="x", now_s=40.0)
    assert after.shadows == ()


def test_promotion_without_room_or_wish_keeps_no_shadow():
    """No cool-down leaves none, nor a route whose own shadows are as many as it may have."""
    rollout, split = begun(plan=Plan(cool_down_s=0.0))
    assert apply_event(rollout, split, Event.PROMOTE, reason="", now_s=20.0)[1].shadows == ()
    rollout, split = begun()
    full = replace(split, shadows=tuple(Shadow(f"s{at}", "1", 1.0) for at in range(5)))
    promoted, after = apply_event(rollout, full, Event.PROMOTE, reason="", now_s=20.0)
    assert (after.shadows, promoted.cools_until_s) == (full.shadows, 0.0)


def test_alias_follows_the_models_own_route():
    """The champion's alias goes with a promotion and comes back with a rollback, only on the model's own route."""
    rollout, _ = at(RolloutState.LIVE)
    assert moved_champion(rollout, "1") == "2"
    assert moved_champion(rollout, "2") is None
    assert moved_champion(replace(rollout, state=RolloutState.QUARANTINED), "2") == "1"
    assert moved_champion(replace(rollout, state=RolloutState.ROLLED_BACK), "3") is None
    assert moved_champion(replace(rollout, route="other"), "1") is None


def test_rollout_error_says_what_is_allowed():
    """Whoever tries an illegal event learns which ones are legal."""
    with pytest.raises(IllegalTransition, match="HELD does not advance; it allows: resume, promote, rollback, give_up, convict"):
        next_state(RolloutState.HELD, Event.ADVANCE)
    with pytest.raises(IllegalTransition, match="nothing"):
        next_state(RolloutState.QUARANTINED, Event.ROLLBACK)


def test_rollout_begins_with_a_fresh_split_at_its_first_step():
    """A rollout deals the callers anew, names the two variants, and remembers where to go back to."""
    rollout, split = begun(route(shadows=(Shadow("s", "2", 1.0), Shadow("t", "3", 1.0))))
    assert rollout.state is RolloutState.CANARY
    assert (rollout.champion, rollout.challenger, rollout.step) == ("1", "2", 0)
    assert rollout.since_revision == 5
    assert split.variants == (Variant("champion", "1", 9_000), Variant("challenger", "2", 1_000))
    assert Counter(split.owners) == {"champion": 9_000, "challenger": 1_000}
    assert (split.salt, split.rollout, split.fallback) == ("new", "r1", "champion")
    assert split.last_good == rollout.before == (Variant("champion", "1", SLOTS),)
    assert split.shadows == (Shadow("t", "3", 1.0),)


@pytest.mark.parametrize(
    ("standing", "error"),
    [
        (route(rollout="r0"), IllegalTransition),
        (with_weights(route(), (Variant("a", "1", 9_999), Variant("b", "3", 1))), IllegalTransition),
        (route(shadows=(Shadow("challenger", "3", 1.0),)), IllegalTransition),
        (route(shadows=(Shadow("previous", "3", 1.0),)), IllegalTransition),
        (route(shadows=tuple(Shadow(f"s{at}", "3", 1.0) for at in range(5))), IllegalTransition),
        (with_weights(route(), (Variant("a", "2", SLOTS),)), MalformedRequest),
    ],
)
def test_rollout_does_not_begin_on_a_route_that_is_taken(standing, error):
    """An open rollout, a split made by hand, a shadow in the way or the same version stops it."""
    with pytest.raises(error):
        begun(standing)


def test_rollout_begins_beside_a_variant_without_weight():
    """A variant of weight zero splits nothing."""
    _, split = begun(with_weights(route(), (Variant("a", "1", SLOTS), Variant("b", "3", 0))))
    assert {variant.version for variant in split.variants} == {"1", "2"}


def test_rollout_does_not_advance_past_its_last_step():
    """After the last step only a promotion or a rollback goes on."""
    rollout, split = begun(plan=Plan(steps=(Step(1_000),)))
    with pytest.raises(IllegalTransition, match="promote"):
        apply_event(rollout, split, Event.ADVANCE, reason="", now_s=1.0)


def test_rollout_does_not_touch_a_route_that_another_has_open():
    """An ended rollout cannot be rolled back over the one that came after it."""
    ended, _ = at(RolloutState.LIVE)
    _, split = begin(route(), id="r2", challenger="3", plan=Plan(), salt="x", now_s=1.0)
    with pytest.raises(IllegalTransition, match="r2"):
        apply_event(ended, split, Event.ROLLBACK, reason="", now_s=2.0)


@st.composite
def plans(draw):
    steps = sorted(draw(st.sets(st.integers(1, SLOTS), min_size=1, max_size=20)))
    wait = st.floats(0, WAIT_S_MAX)
    phase = st.tuples(wait, st.integers(1, 10**9))
    return Plan(
        steps=tuple(Step(weight, *draw(phase)) for weight in steps),
        shadow=draw(st.none() | st.builds(ShadowPhase, st.floats(1e-6, 1), wait, st.integers(1, 10**9))),
        guardrails=draw(st.sampled_from([DEFAULT_GUARDRAILS, (LOSS_ALONE,)])),
        false_rollbacks_per_year=draw(st.floats(1e-6, 0.5)),
        rollouts_per_year=draw(st.integers(1, 10**6)),
        inconclusive=draw(st.sampled_from(Inconclusive)),
        patience_s=draw(wait),
        hold_timeout_s=draw(wait),
        hold_outcome=draw(st.sampled_from(HoldOutcome)),
        bake_s=draw(wait),
        cool_down_s=draw(st.sampled_from([0.0, 60.0])),
        cool_down_fraction=draw(st.floats(1e-6, 1)),
        quarantine_s=draw(st.floats(1, 1e5)),
        advances_itself=draw(st.booleans()),
        promotes_itself=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(plan=plans(), events=st.lists(st.sampled_from(Event), max_size=30))
def test_rollout_keeps_its_laws_along_any_path(plan, events):
    """Whatever happens: weights sum, the challenger's share follows its step and never falls but to nothing, an end leaves one
    variant with everything, every state can be stored, and keys that were the challenger's stay so while it grows."""
    rollout, split = begun(plan=plan)
    kept = (Shadow("previous", "1", plan.cool_down_fraction),)
    for event in events:
        try:
            moved, after = apply_event(rollout, split, event, reason="", now_s=20.0)
        except IllegalTransition:
            continue
        if moved.is_open:
            is_copied = RolloutState.SHADOW in (moved.state, moved.held_in)
            assert Counter(after.owners).get("challenger", 0) == (0 if is_copied else plan.steps[moved.step].weight)
            assert bool(after.shadows) is is_copied
            stayed = zip(split.owners, after.owners, strict=True)
            assert all(new == "challenger" for old, new in stayed if old == "challenger")
            assert after.rollout == moved.id
        else:
            version = "2" if moved.state is RolloutState.LIVE else "1"
            assert after.variants == (Variant("champion", version, SLOTS),)
            assert after.rollout == ""
            assert after.shadows == (kept if moved.is_watched else ())
            assert after.last_good == (Variant("champion", "1", SLOTS),)
        assert sum(variant.weight for variant in after.variants) == SLOTS
        assert Counter(after.owners) == {one.name: one.weight for one in after.variants if one.weight}
        assert after.fallback in {one.name for one in after.variants}
        assert rollout_from_body(json.loads(json.dumps(rollout_body(moved)))) == moved
        assert stored_route(json.loads(json.dumps(route_body(after))), after.owners) == after
        rollout, split = moved, after


@given(plans())
def test_plan_comes_back_from_its_body(plan):
    """A plan is what its body says."""
    assert plan_from_body(json.loads(json.dumps(plan_body(plan)))) == plan


def test_plan_may_be_left_out():
    """No plan, an empty one and nulls mean the defaults."""
    for body in (None, {}, {"steps": None, "dwell_s": None}, {"guardrails": []}):
        assert plan_from_body(body) == Plan()


def test_plan_says_a_time_once_for_all_its_phases():
    """Steps may be bare weights; what they and the shadow do not say is the plan's own."""
    plan = plan_from_body({"steps": [100, {"weight": 200, "dwell_s": 7}], "shadow": True, "dwell_s": 5, "samples_min": 9})
    assert plan.steps == (Step(100, 5.0, 9), Step(200, 7.0, 9))
    assert plan.shadow == ShadowPhase(1.0, 5.0, 9)
    assert plan_from_body({"shadow": False}).shadow is None


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"steps": []}, "plan.steps"),
        ({"steps": [5_000, 1_000]}, "plan.steps"),
        ({"steps": [1_000, 1_000]}, "plan.steps"),
        ({"steps": [0]}, "plan.steps"),
        ({"steps": [10_001]}, "plan.steps"),
        ({"steps": ["10 %"]}, "plan.steps"),
        ({"steps": list(range(1, 22))}, "plan.steps"),
        ({"steps": 5}, "plan.steps"),
        ({"steps": [{"weight": 5, "dwell": 3}]}, "plan.steps[0]: unknown field 'dwell'"),
        ({"steps": [{"weight": 5, "samples_min": 0}]}, "plan.steps[0].samples_min"),
        ({"shadow": {"fraction": 0}}, "plan.shadow.fraction"),
        ({"shadow": 0.5}, "plan.shadow"),
        ({"inconclusive": "guess"}, "plan.inconclusive"),
        ({"hold_outcome": "promote"}, "plan.hold_outcome"),
        ({"cool_down_s": 1e6}, "plan.cool_down_s"),
        ({"dwell_s": -1}, "plan.dwell_s"),
        ({"dwell_s": float("inf")}, "plan.dwell_s"),
        ({"samples_min": 0}, "plan.samples_min"),
        ({"advances_itself": 1}, "plan.advances_itself"),
        ({"false_rollbacks_per_year": 0}, "plan.false_rollbacks_per_year"),
        ({"false_rollbacks_per_year": 6, "rollouts_per_year": 10}, "plan.false_rollbacks_per_year"),
        ({"guardrails": [LOSS_BODY, LOSS_BODY]}, "two are called 'wrong'"),
        ({"guardrails": [{**LOSS_BODY, "alpha_share": 0.4}]}, "sum to 0.4"),
        ({"guardrails": [{**LOSS_BODY, "mesure": "loss"}]}, "plan.guardrails[0]: unknown field 'mesure'"),
        ({"guardrails": [LOSS_BODY] * 21}, "plan.guardrails"),
        ({"stpes": [1]}, "stpes"),
        ([], "plan"),
    ],
)
def test_plan_body_that_is_wrong_is_refused_by_field(body, named):
    """Each mistake in a plan names its field."""
    with pytest.raises(MalformedRequest) as caught:
        plan_from_body(body)
    assert named in str(caught.value)
