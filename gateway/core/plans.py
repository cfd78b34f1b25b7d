"""A rollout's plan: one document that says how far, how fast, by which guardrails, and what happens when nobody can tell.

Everything has a default, so that a plan may be empty. Times are the log's; `core/policy.py` reads the plan, nobody else does.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, Json
from gateway.core.guardrail_bodies import guardrail_body, guardrails_from_bodies
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Guardrail
from gateway.core.split import SLOTS

STEPS_MAX: Final = 20
GUARDRAILS_MAX: Final = 20  # they share one alpha: with more of them none would be quick to find harm
WAIT_S_MAX: Final = 90 * 86_400.0  # of any time in a plan; a rollout that takes longer is a split made by hand
COOL_DOWN_S_MAX: Final = 7 * 86_400.0  # the version before costs memory and copies meanwhile
HINDSIGHT_SHARE: Final = 0.1  # of alpha: what is left makes the guardrails' bounds a fiftieth higher


class Inconclusive(enum.Enum):
    """What happens when a phase has lasted for its dwell and patience and nothing is proven."""

    HOLD = "hold"
    ADVANCE = "advance"  # unless an estimate leans towards harm, samples are missing or a verdict is void; then hold
    ROLLBACK = "rollback"  # without blame


class HoldOutcome(enum.Enum):
    """What a hold that nobody ends in time becomes."""

    ROLLBACK = "rollback"  # without blame
    RESUME = "resume"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class Step:
    """One weight of the challenger.

    Attributes:
        weight: Out of `SLOTS`.
        dwell_s: Least time at the step before the rollout goes on by itself.
        samples_min: Least number of the challenger's assignment keys at the step before it goes on by itself.
    """

    weight: int
    dwell_s: float = 300.0
    samples_min: int = 100


@dataclass(frozen=True, slots=True)
class ShadowPhase:
    """The phase before the first step, in which the challenger sees copies and answers nobody.

    Attributes:
        fraction: Of the route's requests that are copied, in (0, 1].
        dwell_s, samples_min: As of a step; keys of copies that the challenger answered.
    """

    fraction: float = 1.0
    dwell_s: float = 300.0
    samples_min: int = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """How a rollout goes.

    Attributes:
        steps: With rising weights.
        shadow: The phase before them, or None.
        guardrails: What the challenger is measured by, with names of their own; their shares of alpha sum to 1.
        false_rollbacks_per_year: How often in a year the route may see a sound challenger rolled back, on average.
        rollouts_per_year: Among how many rollouts that is divided.
        inconclusive: What happens when `patience_s` after its dwell time a phase has proven nothing.
        hold_outcome: What a hold becomes after `hold_timeout_s`.
        bake_s: How long the last step goes on, with all its evidence, after it has passed.
        cool_down_s: How long after promotion the version before stays warm and sees copies; 0 for not at all…
        cool_down_fraction: …and of which fraction of the requests, in (0, 1].
        quarantine_s: Of the challenger's digest after its first rollback on evidence; four times as long with each one more.
        advances_itself: Whether the monitor goes from phase to phase, or a person does.
        promotes_itself: Whether the monitor promotes after the bake time. A route may ask for a person's approval all the same.
    """

    steps: tuple[Step, ...] = (Step(1_000), Step(5_000))
    shadow: ShadowPhase | None = None
    guardrails: tuple[Guardrail, ...] = DEFAULT_GUARDRAILS
    false_rollbacks_per_year: float = 0.5  # one in two years…
    rollouts_per_year: int = 50  # …at about one rollout a week: .01 each
    inconclusive: Inconclusive = Inconclusive.HOLD
    patience_s: float = 86_400.0  # a day has seen every hour's callers
    hold_timeout_s: float = 86_400.0
    hold_outcome: HoldOutcome = HoldOutcome.ROLLBACK  # half a rollout is no state to forget a route in
    bake_s: float = 3_600.0
    cool_down_s: float = 3_600.0
    cool_down_fraction: float = 0.1  # what a tenth more predictions cost
    quarantine_s: float = 1_800.0
    advances_itself: bool = True
    promotes_itself: bool = True  # every required guardrail passed at every step: a person could look at nothing else

    @property
    def false_rollback_alpha(self) -> float:
        """The probability that a sound challenger is rolled back, over the whole rollout and its cool-down."""
        return self.false_rollbacks_per_year / self.rollouts_per_year

    @property
    def guardrails_alpha(self) -> float:
        """What the guardrails share of it."""
        return self.false_rollback_alpha - self.hindsight_alpha

    @property
    def hindsight_alpha(self) -> float:
        """What is kept of it for going back after the promotion; nothing where no version before stays."""
        return HINDSIGHT_SHARE * self.false_rollback_alpha if self.cool_down_s else 0.0


def plan_from_body(body: object) -> Plan:
    """Read a plan; an absent or empty one has the defaults.

    ```
    {"shadow": true or {"fraction", "dwell_s", "samples_min"},
     "steps": [weight or {"weight", "dwell_s", "samples_min"}], "dwell_s", "samples_min",
     "guardrails": [...], "false_rollbacks_per_year", "rollouts_per_year",
     "inconclusive": "hold", "advance" or "rollback", "patience_s", "hold_timeout_s",
     "hold_outcome": "rollback", "resume" or "stay",
     "bake_s", "cool_down_s", "cool_down_fraction", "quarantine_s", "advances_itself", "promotes_itself"}
    ```

    `dwell_s` and `samples_min` are those of the steps and of the shadow phase that do not say their own.

    Raises:
        MalformedRequest: a field is unknown or wrong, the steps do not rise, or alpha would be above a half.
    """
    fields = Fields({} if body is None else body, "plan")
    default, step = Plan(), Step(1)
    dwell_s = fields.number("dwell_s", 0.0, WAIT_S_MAX, step.dwell_s)
    samples_min = fields.integer("samples_min", 1, 1_000_000_000, step.samples_min)
    steps = fields.items("steps", STEPS_MAX, [one.weight for one in default.steps])
    plan = Plan(
        steps=tuple(_step(item, f"plan.steps[{at}]", dwell_s, samples_min) for at, item in enumerate(steps)),
        shadow=_shadow(fields.value("shadow"), dwell_s, samples_min),
        guardrails=guardrails_from_bodies(fields.items("guardrails", GUARDRAILS_MAX, ()), "plan.guardrails")
        or DEFAULT_GUARDRAILS,
        false_rollbacks_per_year=fields.number("false_rollbacks_per_year", 1e-6, 1e6, default.false_rollbacks_per_year),
        rollouts_per_year=fields.integer("rollouts_per_year", 1, 1_000_000, default.rollouts_per_year),
        inconclusive=fields.choice("inconclusive", Inconclusive, default.inconclusive),
        patience_s=fields.number("patience_s", 0.0, WAIT_S_MAX, default.patience_s),
        hold_timeout_s=fields.number("hold_timeout_s", 0.0, WAIT_S_MAX, default.hold_timeout_s),
        hold_outcome=fields.choice("hold_outcome", HoldOutcome, default.hold_outcome),
        bake_s=fields.number("bake_s", 0.0, WAIT_S_MAX, default.bake_s),
        cool_down_s=fields.number("cool_down_s", 0.0, COOL_DOWN_S_MAX, default.cool_down_s),
        cool_down_fraction=fields.number("cool_down_fraction", 1e-6, 1.0, default.cool_down_fraction),
        quarantine_s=fields.number("quarantine_s", 1.0, COOL_DOWN_S_MAX, default.quarantine_s),
        advances_itself=fields.boolean("advances_itself", default.advances_itself),
        promotes_itself=fields.boolean("promotes_itself", default.promotes_itself),
    )
    fields.done()
    _refuse_loose_steps(plan.steps)
    if plan.false_rollback_alpha > 0.5:
        raise MalformedRequest(
            f"plan.false_rollbacks_per_year: {plan.false_rollbacks_per_year:g} over {plan.rollouts_per_year} rollouts_per_year "
            "is more than one in two"
        )
    return plan


def plan_body(plan: Plan) -> Json:
    """Return a plan as `plan_from_body` reads it, with every default written out."""
    return {
        "shadow": None if plan.shadow is None else {name: getattr(plan.shadow, name) for name in ShadowPhase.__slots__},
        "steps": [{name: getattr(step, name) for name in Step.__slots__} for step in plan.steps],
        "guardrails": [guardrail_body(rail) for rail in plan.guardrails],
        "false_rollbacks_per_year": plan.false_rollbacks_per_year,
        "rollouts_per_year": plan.rollouts_per_year,
        "inconclusive": plan.inconclusive.value,
        "patience_s": plan.patience_s,
        "hold_timeout_s": plan.hold_timeout_s,
        "hold_outcome": plan.hold_outcome.value,
        "bake_s": plan.bake_s,
        "cool_down_s": plan.cool_down_s,
        "cool_down_fraction": plan.cool_down_fraction,
        "quarantine_s": plan.quarantine_s,
        "advances_itself": plan.advances_itself,
        "promotes_itself": plan.promotes_itself,
    }


def _step(body: object, where: str, dwell_s: float, samples_min: int) -> Step:
    if isinstance(body, int) and not isinstance(body, bool):
        body = {"weight": body}
    fields = Fields(body, where)
    step = Step(
        weight=fields.integer("weight", 1, SLOTS),
        dwell_s=fields.number("dwell_s", 0.0, WAIT_S_MAX, dwell_s),
        samples_min=fields.integer("samples_min", 1, 1_000_000_000, samples_min),
    )
    fields.done()
    return step


def _shadow(body: object, dwell_s: float, samples_min: int) -> ShadowPhase | None:
    if body is None or body is False:
        return None
    fields = Fields({} if body is True else body, "plan.shadow")
    phase = ShadowPhase(
        fraction=fields.number("fraction", 1e-6, 1.0, 1.0),
        dwell_s=fields.number("dwell_s", 0.0, WAIT_S_MAX, dwell_s),
        samples_min=fields.integer("samples_min", 1, 1_000_000_000, samples_min),
    )
    fields.done()
    return phase


def _refuse_loose_steps(steps: Sequence[Step]) -> None:
    weights = [step.weight for step in steps]
    if not weights or weights != sorted(set(weights)):
        raise MalformedRequest("plan.steps: expected at least one weight, each above the one before")
