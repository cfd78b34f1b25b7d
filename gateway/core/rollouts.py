"""A rollout: moving a route from champion to challenger, as a state machine.

One transition table; an illegal event raises and changes nothing. Pure: `core/policy.py` decides which event happens, and
whoever acts (a person through control, the monitor by itself) commits what the functions here return.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.errors import IllegalTransition, MalformedRequest
from gateway.core.fields import Fields, Json
from gateway.core.guardrail_bodies import guardrail_body, guardrails_from_bodies
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Guardrail
from gateway.core.routes import Route, Variant, with_weights
from gateway.core.split import SLOTS

STEPS_MAX: Final = 20
GUARDRAILS_MAX: Final = 20  # they share one alpha: with more of them none would be quick to find harm


class RolloutState(enum.Enum):
    """Where a rollout stands."""

    CANARY = "CANARY"  # champion and challenger both answer; evidence is gathered
    HELD = "HELD"  # weights stay; evidence goes on; only rollback acts by itself
    LIVE = "LIVE"  # the challenger became champion
    ROLLED_BACK = "ROLLED_BACK"  # the champion answers alone again
    QUARANTINED = "QUARANTINED"  # rolled back by the gateway, and the digest may not be used for a while


class Event(enum.Enum):
    """What can happen to a rollout."""

    ADVANCE = "advance"
    HOLD = "hold"
    RESUME = "resume"
    PROMOTE = "promote"
    ROLLBACK = "rollback"  # a person's
    CONVICT = "convict"  # the gateway's own rollback, on evidence


TRANSITIONS: Final[dict[tuple[RolloutState, Event], RolloutState]] = {
    (RolloutState.CANARY, Event.ADVANCE): RolloutState.CANARY,
    (RolloutState.CANARY, Event.HOLD): RolloutState.HELD,
    (RolloutState.CANARY, Event.PROMOTE): RolloutState.LIVE,
    (RolloutState.CANARY, Event.ROLLBACK): RolloutState.ROLLED_BACK,
    (RolloutState.CANARY, Event.CONVICT): RolloutState.QUARANTINED,
    (RolloutState.HELD, Event.RESUME): RolloutState.CANARY,
    (RolloutState.HELD, Event.PROMOTE): RolloutState.LIVE,
    (RolloutState.HELD, Event.ROLLBACK): RolloutState.ROLLED_BACK,
    (RolloutState.HELD, Event.CONVICT): RolloutState.QUARANTINED,
    (RolloutState.LIVE, Event.ROLLBACK): RolloutState.ROLLED_BACK,
    (RolloutState.LIVE, Event.CONVICT): RolloutState.QUARANTINED,  # by ground truth that came after the promotion
}
ENDED: Final = frozenset({RolloutState.LIVE, RolloutState.ROLLED_BACK, RolloutState.QUARANTINED})


@dataclass(frozen=True, slots=True)
class Plan:
    """How a rollout goes.

    Attributes:
        steps: Weights of the challenger out of `SLOTS`, rising.
        dwell_s: Least time at each step before it may advance by itself.
        samples_min: Least number of the challenger's assignment keys at a step before it may advance by itself.
        advances_itself: Whether the monitor advances, or a person does. Promotion is a person's.
        false_rollback_alpha: Probability that a sound challenger is rolled back, over the whole rollout.
        guardrails: What the challenger is measured by, with names of their own; their shares of alpha sum to 1.
    """

    steps: tuple[int, ...] = (1_000, 5_000)
    dwell_s: float = 300.0
    samples_min: int = 100
    advances_itself: bool = True
    false_rollback_alpha: float = 0.01
    guardrails: tuple[Guardrail, ...] = DEFAULT_GUARDRAILS


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout of one route.

    Attributes:
        champion, challenger: Versions; on the route they are the variants `champion` and `challenger`.
        step: Index into `plan.steps`.
        started_at_s, changed_at_s: Wall time, seconds since the epoch.
        reason: Why it is in its state, in a sentence.
        before: The route's variants when it began; a rollback restores them.
        since_revision: The route's revision that its first commit makes; records of older revisions are not its evidence.
    """

    id: str
    route: str
    model: str
    champion: str
    challenger: str
    plan: Plan
    state: RolloutState
    step: int
    before: tuple[Variant, ...]
    started_at_s: float
    changed_at_s: float
    since_revision: int
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether champion and challenger both answer."""
        return self.state not in ENDED


CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"


def next_state(state: RolloutState, event: Event) -> RolloutState:
    """Return the state after `event`.

    Raises:
        IllegalTransition: the table has no such row.
    """
    after = TRANSITIONS.get((state, event))
    if after is None:
        allowed = ", ".join(e.value for (s, e) in TRANSITIONS if s is state) or "nothing"
        raise IllegalTransition(f"a rollout that is {state.value} does not {event.value}; it allows: {allowed}")
    return after


def begin(route: Route, *, id: str, challenger: str, plan: Plan, salt: str, now_s: float) -> tuple[Rollout, Route]:
    """Return a new rollout in CANARY at its first step, and the route with that split.

    Raises:
        IllegalTransition: a rollout is open on the route, it already splits traffic, or one of its shadows has a name that the
            rollout's variants take.
        MalformedRequest: the challenger answers already.
    """
    if route.rollout:
        raise IllegalTransition(f"rollout {route.rollout} is open on this route")
    if sum(variant.weight > 0 for variant in route.variants) != 1:
        raise IllegalTransition("the route splits traffic by hand; give one variant all of it first")
    champion = next(variant for variant in route.variants if variant.weight > 0)
    if champion.version == challenger:
        raise MalformedRequest(f"version {challenger} answers on this route already")
    shadows = tuple(shadow for shadow in route.shadows if shadow.version != challenger)
    if taken := [shadow.name for shadow in shadows if shadow.name in (CHAMPION, CHALLENGER)]:
        raise IllegalTransition(
            f"a shadow of the route is called {taken[0]}, as a variant of the rollout will be; rename it first"
        )
    rollout = Rollout(
        id=id,
        route=route.name,
        model=route.model,
        champion=champion.version,
        challenger=challenger,
        plan=plan,
        state=RolloutState.CANARY,
        step=0,
        before=(Variant(CHAMPION, champion.version, SLOTS),),
        started_at_s=now_s,
        changed_at_s=now_s,
        since_revision=route.revision + 1,
    )
    fresh = replace(
        route,
        salt=salt,
        owners=(),
        fallback=CHAMPION,
        last_good=rollout.before,
        shadows=shadows,
        rollout=id,
    )
    return rollout, _split(fresh, rollout, plan.steps[0])


def apply_event(rollout: Rollout, route: Route, event: Event, *, reason: str, now_s: float) -> tuple[Rollout, Route]:
    """Return the rollout and the route after `event`.

    Raises:
        IllegalTransition: the state does not allow it, there is no further step to advance to, or another rollout began.
    """
    if route.rollout not in ("", rollout.id):
        raise IllegalTransition(f"rollout {route.rollout} is open on this route")
    state = next_state(rollout.state, event)
    moved = replace(rollout, state=state, reason=reason, changed_at_s=now_s)
    match event:
        case Event.HOLD | Event.RESUME:
            return moved, route
        case Event.ADVANCE:
            if rollout.step + 1 >= len(rollout.plan.steps):
                raise IllegalTransition("the last step is reached; promote or roll back")
            return replace(moved, step=rollout.step + 1), _split(route, rollout, rollout.plan.steps[rollout.step + 1])
        case Event.PROMOTE:
            promoted = (Variant(CHAMPION, rollout.challenger, SLOTS),)
            return moved, _alone(route, promoted, last_good=rollout.before)
        case Event.ROLLBACK | Event.CONVICT:
            return moved, _alone(route, rollout.before, last_good=rollout.before)


def _split(route: Route, rollout: Rollout, weight: int) -> Route:
    variants = (Variant(CHAMPION, rollout.champion, SLOTS - weight), Variant(CHALLENGER, rollout.challenger, weight))
    return with_weights(route, variants)


def _alone(route: Route, variants: tuple[Variant, ...], *, last_good: tuple[Variant, ...]) -> Route:
    return replace(with_weights(route, variants), fallback=variants[0].name, last_good=last_good, rollout="")


def plan_from_body(body: object) -> Plan:
    """Read a plan; an absent or empty one has the defaults.

    Raises:
        MalformedRequest: a field is unknown or wrong, or the steps do not rise.
    """
    fields = Fields({} if body is None else body, "plan")
    default = Plan()
    plan = Plan(
        steps=tuple(
            Fields({"step": step}, "plan.steps").integer("step", 1, SLOTS)
            for step in fields.items("steps", STEPS_MAX, default.steps)
        ),
        dwell_s=fields.number("dwell_s", 0.0, 1e9, default.dwell_s),
        samples_min=fields.integer("samples_min", 1, 1_000_000_000, default.samples_min),
        advances_itself=fields.boolean("advances_itself", default.advances_itself),
        false_rollback_alpha=fields.number("false_rollback_alpha", 1e-9, 0.5, default.false_rollback_alpha),
        guardrails=guardrails_from_bodies(fields.items("guardrails", GUARDRAILS_MAX, ()), "plan.guardrails")
        or DEFAULT_GUARDRAILS,
    )
    fields.done()
    if not plan.steps or list(plan.steps) != sorted(set(plan.steps)):
        raise MalformedRequest("plan.steps: expected at least one weight, each above the one before")
    return plan


def plan_body(plan: Plan) -> Json:
    """Return a plan as `plan_from_body` reads it."""
    return {
        "steps": list(plan.steps),
        "dwell_s": plan.dwell_s,
        "samples_min": plan.samples_min,
        "advances_itself": plan.advances_itself,
        "false_rollback_alpha": plan.false_rollback_alpha,
        "guardrails": [guardrail_body(rail) for rail in plan.guardrails],
    }


def rollout_body(rollout: Rollout) -> Json:
    """Return a rollout as the admin API shows it and the registry stores it."""
    return {
        "id": rollout.id,
        "route": rollout.route,
        "model": rollout.model,
        "champion": rollout.champion,
        "challenger": rollout.challenger,
        "plan": plan_body(rollout.plan),
        "state": rollout.state.value,
        "step": rollout.step,
        "before": [{"name": v.name, "version": v.version, "weight": v.weight} for v in rollout.before],
        "started_at_s": rollout.started_at_s,
        "changed_at_s": rollout.changed_at_s,
        "since_revision": rollout.since_revision,
        "reason": rollout.reason,
    }


def rollout_from_body(body: object) -> Rollout:
    """Read what `rollout_body` wrote."""
    fields = Fields(body, "rollout")
    return Rollout(
        id=fields.text("id"),
        route=fields.text("route"),
        model=fields.text("model"),
        champion=fields.text("champion"),
        challenger=fields.text("challenger"),
        plan=plan_from_body(fields.value("plan")),
        state=fields.choice("state", RolloutState),
        step=fields.integer("step", 0, STEPS_MAX),
        before=tuple(_variant(item) for item in fields.items("before", 20)),
        started_at_s=fields.number("started_at_s", 0.0, 1e12),
        changed_at_s=fields.number("changed_at_s", 0.0, 1e12),
        since_revision=fields.integer("since_revision", 1, 1 << 62),
        reason=fields.text("reason", ""),
    )


def _variant(body: object) -> Variant:
    fields = Fields(body, "rollout.before")
    return Variant(fields.text("name"), fields.text("version"), fields.integer("weight", 0, SLOTS))
