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
from gateway.core.guardrails import PAIRED
from gateway.core.plans import STEPS_MAX, Plan, plan_body, plan_from_body
from gateway.core.routes import SHADOWS_MAX, Route, Shadow, Variant, with_weights
from gateway.core.split import SLOTS


class RolloutState(enum.Enum):
    """Where a rollout stands."""

    SHADOW = "SHADOW"  # the champion answers; the challenger sees copies
    CANARY = "CANARY"  # champion and challenger both answer; evidence is gathered
    BAKING = "BAKING"  # the last step passed and goes on for the plan's bake time
    AWAITING_APPROVAL = "AWAITING_APPROVAL"  # baked; the route wants a person to say yes
    HELD = "HELD"  # weights stay; evidence goes on; only rollback, or the hold's own end, happens by itself
    LIVE = "LIVE"  # the challenger became champion; while it cools down, the version before sees copies
    ROLLED_BACK = "ROLLED_BACK"  # the champion answers alone again
    QUARANTINED = "QUARANTINED"  # rolled back by the gateway, and the digest may not be used for a while


class Event(enum.Enum):
    """What can happen to a rollout."""

    ADVANCE = "advance"  # from the shadow to the first step, and from step to step
    BAKE = "bake"
    ASK = "ask"  # for a person's approval
    HOLD = "hold"
    RESUME = "resume"
    PROMOTE = "promote"
    APPROVE = "approve"  # a person's promotion, where the route asks for it
    ROLLBACK = "rollback"  # a person's
    GIVE_UP = "give_up"  # the gateway's own, because nothing was proven in time; nobody is to blame
    CONVICT = "convict"  # the gateway's own, on evidence
    SETTLE = "settle"  # the cool-down is over; the version before is let go


_S, _E = RolloutState, Event
TRANSITIONS: Final[dict[tuple[RolloutState, Event], RolloutState | None]] = {  # None: back to the state it was held in
    (_S.SHADOW, _E.ADVANCE): _S.CANARY,
    (_S.SHADOW, _E.HOLD): _S.HELD,
    (_S.SHADOW, _E.ROLLBACK): _S.ROLLED_BACK,
    (_S.SHADOW, _E.GIVE_UP): _S.ROLLED_BACK,
    (_S.SHADOW, _E.CONVICT): _S.QUARANTINED,
    (_S.CANARY, _E.ADVANCE): _S.CANARY,
    (_S.CANARY, _E.BAKE): _S.BAKING,
    (_S.CANARY, _E.HOLD): _S.HELD,
    (_S.CANARY, _E.PROMOTE): _S.LIVE,
    (_S.CANARY, _E.ROLLBACK): _S.ROLLED_BACK,
    (_S.CANARY, _E.GIVE_UP): _S.ROLLED_BACK,
    (_S.CANARY, _E.CONVICT): _S.QUARANTINED,
    (_S.BAKING, _E.ASK): _S.AWAITING_APPROVAL,
    (_S.BAKING, _E.HOLD): _S.HELD,
    (_S.BAKING, _E.PROMOTE): _S.LIVE,
    (_S.BAKING, _E.ROLLBACK): _S.ROLLED_BACK,
    (_S.BAKING, _E.GIVE_UP): _S.ROLLED_BACK,
    (_S.BAKING, _E.CONVICT): _S.QUARANTINED,
    (_S.AWAITING_APPROVAL, _E.APPROVE): _S.LIVE,
    (_S.AWAITING_APPROVAL, _E.ROLLBACK): _S.ROLLED_BACK,
    (_S.AWAITING_APPROVAL, _E.GIVE_UP): _S.ROLLED_BACK,
    (_S.AWAITING_APPROVAL, _E.CONVICT): _S.QUARANTINED,
    (_S.HELD, _E.RESUME): None,
    (_S.HELD, _E.PROMOTE): _S.LIVE,
    (_S.HELD, _E.ROLLBACK): _S.ROLLED_BACK,
    (_S.HELD, _E.GIVE_UP): _S.ROLLED_BACK,
    (_S.HELD, _E.CONVICT): _S.QUARANTINED,
    (_S.LIVE, _E.ROLLBACK): _S.ROLLED_BACK,
    (_S.LIVE, _E.CONVICT): _S.QUARANTINED,  # while it cools down, or by ground truth that came after the promotion
    (_S.LIVE, _E.SETTLE): _S.LIVE,
}
ENDED: Final = (RolloutState.LIVE, RolloutState.ROLLED_BACK, RolloutState.QUARANTINED)  # a tuple: to hash an enum costs more
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"  # the shadow that the version before becomes while its successor cools down


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout of one route.

    Attributes:
        champion, challenger: Versions; on the route they are the variants `champion` and `challenger`.
        step: Index into `plan.steps`.
        held_in: The state that a resume leads back to; None unless it is HELD.
        started_at_s, changed_at_s: Wall time, seconds since the epoch.
        since_s: When its phase began: the shadow, the step, the bake time; anew after a hold.
        cools_until_s: Until when the version before sees copies after the promotion; 0 before and after.
        reason: Why it is in its state, in a sentence.
        before: The route's variants when it began; a rollback restores them.
        since_revision: The route's revision that its first commit makes; records of older revisions are not its evidence.
        is_spent: Whether the two versions may have been compared, so that it has had its chance of a false rollback.
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
    since_s: float
    since_revision: int
    held_in: RolloutState | None = None
    cools_until_s: float = 0.0
    reason: str = ""
    is_spent: bool = True

    @property
    def is_open(self) -> bool:
        """Whether it is still to be seen which version answers in the end."""
        return self.state not in ENDED

    @property
    def is_watched(self) -> bool:
        """Whether anything may still happen to it by itself."""
        return self.is_open or self.is_cooling

    @property
    def is_cooling(self) -> bool:
        """Whether it was promoted, and the version before sees copies of what its successor answers."""
        return self.state is RolloutState.LIVE and self.cools_until_s > 0.0


def next_state(state: RolloutState, event: Event, *, held_in: RolloutState | None = None) -> RolloutState:
    """Return the state after `event`.

    Args:
        held_in: Where a resume leads back to.

    Raises:
        IllegalTransition: the table has no such row.
    """
    if (state, event) not in TRANSITIONS:
        allowed = ", ".join(e.value for (s, e) in TRANSITIONS if s is state) or "nothing"
        raise IllegalTransition(f"a rollout that is {state.value} does not {event.value}; it allows: {allowed}")
    after = TRANSITIONS[state, event] or held_in
    assert after is not None, "a held rollout knows where it was held"
    return after


def begin(route: Route, *, id: str, challenger: str, plan: Plan, salt: str, now_s: float) -> tuple[Rollout, Route]:
    """Return a new rollout in its first phase, the shadow or the first step, and the route as it is then.

    Raises:
        IllegalTransition: a rollout is open on the route, it already splits traffic, one of its shadows has a name that the
            rollout's variants take, or it has no room for one more.
        MalformedRequest: the challenger answers already.
    """
    if route.rollout:
        raise IllegalTransition(f"rollout {route.rollout} is open on this route")
    if sum(variant.weight > 0 for variant in route.variants) != 1:
        raise IllegalTransition("the route splits traffic by hand; give one variant all of it first")
    champion = next(variant for variant in route.variants if variant.weight > 0)
    if champion.version == challenger:
        raise MalformedRequest(f"version {challenger} answers on this route already")
    shadows = tuple(shadow for shadow in without_previous(route).shadows if shadow.version != challenger)
    if taken := [shadow.name for shadow in shadows if shadow.name in (CHAMPION, CHALLENGER, PREVIOUS)]:
        raise IllegalTransition(
            f"a shadow of the route is called {taken[0]}, as a variant of the rollout will be; rename it first"
        )
    if len(shadows) >= SHADOWS_MAX:
        raise IllegalTransition(f"the route has {len(shadows)} shadows, and a rollout needs room for one; remove one first")
    rollout = Rollout(
        id=id,
        route=route.name,
        model=route.model,
        champion=champion.version,
        challenger=challenger,
        plan=plan,
        state=RolloutState.CANARY if plan.shadow is None else RolloutState.SHADOW,
        step=0,
        before=(Variant(CHAMPION, champion.version, SLOTS),),
        started_at_s=now_s,
        changed_at_s=now_s,
        since_s=now_s,
        since_revision=route.revision + 1,
        is_spent=plan.shadow is None or any(rail.measure in PAIRED for rail in plan.guardrails),
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
    if plan.shadow is None:
        return rollout, at_step(fresh, rollout, 0)
    copied = replace(fresh, shadows=(*shadows, Shadow(CHALLENGER, challenger, plan.shadow.fraction)))
    return rollout, with_weights(copied, rollout.before)


def apply_event(rollout: Rollout, route: Route, event: Event, *, reason: str, now_s: float) -> tuple[Rollout, Route]:
    """Return the rollout and the route after `event`.

    Raises:
        IllegalTransition: the state does not allow it, there is no further step to advance to, or another rollout began.
    """
    if route.rollout not in ("", rollout.id):
        raise IllegalTransition(f"rollout {route.rollout} is open on this route")
    moved = moved_by(rollout, event, reason=reason, now_s=now_s)
    match event:
        case Event.HOLD | Event.RESUME | Event.BAKE | Event.ASK:
            return moved, route
        case Event.ADVANCE:
            return moved, at_step(route, rollout, moved.step)
        case Event.PROMOTE | Event.APPROVE:
            return _promoted(moved, route)
        case Event.ROLLBACK | Event.CONVICT | Event.GIVE_UP:
            return moved, _alone(_without_copies(route, rollout), rollout.before, last_good=rollout.before)
        case Event.SETTLE:
            return moved, without_previous(route)


def moved_by(rollout: Rollout, event: Event, *, reason: str, now_s: float) -> Rollout:
    """Return the rollout after `event`.

    Raises:
        IllegalTransition: the state does not allow it, or there is no further step to advance to.
    """
    state = next_state(rollout.state, event, held_in=rollout.held_in)
    moved = replace(rollout, state=state, held_in=None, reason=reason, changed_at_s=now_s, cools_until_s=0.0)
    match event:
        case Event.HOLD:
            return replace(moved, held_in=rollout.state)
        case Event.RESUME | Event.BAKE | Event.ASK:
            return replace(moved, since_s=now_s)
        case Event.ADVANCE:
            step = 0 if rollout.state is RolloutState.SHADOW else rollout.step + 1
            if step >= len(rollout.plan.steps):
                raise IllegalTransition("the last step is reached; promote or roll back")
            return replace(moved, step=step, since_s=now_s, is_spent=True)
        case Event.PROMOTE | Event.APPROVE:
            cool_down_s = rollout.plan.cool_down_s
            return replace(moved, cools_until_s=now_s + cool_down_s if cool_down_s else 0.0, is_spent=True)
        case Event.SETTLE:
            return replace(moved, reason=rollout.reason, changed_at_s=rollout.changed_at_s)
        case Event.ROLLBACK | Event.CONVICT | Event.GIVE_UP:
            return moved


def moved_champion(moved: Rollout, now: str | None) -> str | None:
    """Return the version that a model's alias has to follow its own route to after an event, or None where it may stay.

    Args:
        now: The version that the alias points at.
    """
    if moved.route != moved.model:
        return None
    if moved.state is RolloutState.LIVE and now != moved.challenger:
        return moved.challenger
    has_left = moved.state in (RolloutState.ROLLED_BACK, RolloutState.QUARANTINED) and now == moved.challenger
    return moved.champion if has_left else None


def at_step(route: Route, rollout: Rollout, step: int) -> Route:
    """Return the route with the split of a step."""
    weight = rollout.plan.steps[step].weight
    variants = (Variant(CHAMPION, rollout.champion, SLOTS - weight), Variant(CHALLENGER, rollout.challenger, weight))
    return with_weights(_without_copies(route, rollout), variants)


def without_previous(route: Route) -> Route:
    """Return the route without the shadow that a cool-down left there."""
    last_good = {variant.version for variant in route.last_good}
    kept = [shadow for shadow in route.shadows if not (shadow.name == PREVIOUS and shadow.version in last_good)]
    return replace(route, shadows=tuple(kept))


def _promoted(moved: Rollout, route: Route) -> tuple[Rollout, Route]:
    """Return the rollout and the route with the challenger alone, and the version before as its shadow while that cools down."""
    alone = _alone(_without_copies(route, moved), (Variant(CHAMPION, moved.challenger, SLOTS),), last_good=moved.before)
    if not moved.is_watched or len(alone.shadows) >= SHADOWS_MAX:
        return replace(moved, cools_until_s=0.0), alone
    copied = (*alone.shadows, Shadow(PREVIOUS, moved.champion, moved.plan.cool_down_fraction))
    return moved, replace(alone, shadows=copied)


def _without_copies(route: Route, rollout: Rollout) -> Route:
    """Return the route without the shadows that the rollout made."""
    made = {(CHALLENGER, rollout.challenger), (PREVIOUS, rollout.champion)}
    return replace(route, shadows=tuple(one for one in route.shadows if (one.name, one.version) not in made))


def _alone(route: Route, variants: tuple[Variant, ...], *, last_good: tuple[Variant, ...]) -> Route:
    return replace(with_weights(route, variants), fallback=variants[0].name, last_good=last_good, rollout="")


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
        "since_s": rollout.since_s,
        "held_in": None if rollout.held_in is None else rollout.held_in.value,
        "cools_until_s": rollout.cools_until_s,
        "since_revision": rollout.since_revision,
        "reason": rollout.reason,
        "is_spent": rollout.is_spent,
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
        since_s=fields.number("since_s", 0.0, 1e12),
        held_in=fields.choice("held_in", RolloutState) if fields.has("held_in") else None,
        cools_until_s=fields.number("cools_until_s", 0.0, 1e12, 0.0),
        since_revision=fields.integer("since_revision", 1, 1 << 62),
        reason=fields.text("reason", ""),
        is_spent=fields.boolean("is_spent", True),
    )


def _variant(body: object) -> Variant:
    fields = Fields(body, "rollout.before")
    return Variant(fields.text("name"), fields.text("version"), fields.integer("weight", 0, SLOTS))
