"""Did a rollback help? What the champion does alone, in the measure that its challenger was convicted by.

A challenger is convicted for being worse than the champion at the same time. If the champion, alone again, soon does as badly,
then what was blamed on the version was on its way to both, and the finding is revised: WORLD. Looked at once, over a bounded
window, so that nothing is looked for until it is found. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.core.fields import Fields, Json
from gateway.core.guardrails import Finding, Measure

REVISE: Final = "rollout.revise"  # the action in the audit log
KEYS: Final = 500  # of the champion after the rollback: at a rate of .1 its mean is then known to .013
KEYS_MIN: Final = 100  # fewer say nothing
SPAN_S: Final = 86_400.0  # after which what has come decides: ground truth may take a day
ERRORS_OF_MEAN: Final = 3.0  # standard errors; one look, so once in 700
MEASURES: Final = (Measure.ERRORS, Measure.LOSS)  # whose values mean the same with one version as with two


@dataclass(frozen=True, slots=True)
class Blame:
    """What a challenger was convicted by.

    Attributes:
        champion_mean, challenger_mean: Before the rollback, at the same time.
    """

    guardrail: str
    measure: Measure
    champion_mean: float
    challenger_mean: float


@dataclass(frozen=True, slots=True)
class Look:
    """What the champion did after the rollback, in one measure.

    Attributes:
        mean: Over `keys` keys.
        has_helped: Whether it stayed nearer to its own mean than to the challenger's; None where too few keys tell.
    """

    blame: Blame
    mean: float
    keys: int

    @property
    def has_helped(self) -> bool | None:
        """Whether the champion stayed better than what the challenger was convicted by."""
        if self.keys < KEYS_MIN:
            return None
        error = math.sqrt(max(self.mean * (1.0 - self.mean), 1.0 / self.keys) / self.keys)
        gap = self.blame.challenger_mean - self.blame.champion_mean
        return self.mean - self.blame.champion_mean < max(gap / 2.0, ERRORS_OF_MEAN * error)

    def __str__(self) -> str:
        blame = self.blame
        champion = f"the champion's {self.mean:.4g} over {self.keys} keys after it, {blame.champion_mean:.4g} before"
        return f"{blame.guardrail}: {champion}; the challenger's {blame.challenger_mean:.4g}"

    def body(self) -> Json:
        """Return the look as readings and audit entries show it."""
        return {
            "guardrail": self.blame.guardrail,
            "measure": self.blame.measure.value,
            "champion_before": self.blame.champion_mean,
            "challenger_before": self.blame.challenger_mean,
            "champion_after": self.mean,
            "keys": self.keys,
            "has_helped": self.has_helped,
        }


def blames_of(findings: Iterable[Finding], *, is_burst: bool) -> tuple[Blame, ...]:
    """Return what a conviction rests on, as far as it can be looked at again.

    Args:
        is_burst: Whether hard faults in a row convicted; then errors are looked at.
    """
    return tuple(
        Blame(one.guardrail.name, one.guardrail.measure, one.reading.champion_mean, one.reading.challenger_mean)
        for one in findings
        if one.guardrail.measure in MEASURES and (one.convicts or (is_burst and one.guardrail.measure is Measure.ERRORS))
    )


class Aftermath:
    """The window after one rollback. Not shared between threads.

    Attributes:
        is_judged: Whether it was looked at; then nothing more is taken.
    """

    def __init__(self, blames: tuple[Blame, ...], *, revision: int, since_s: float) -> None:
        """Begin with what was blamed; records of the route count from `revision` and truths of answers after `since_s`."""
        self.blames = blames
        self.revision = revision
        self.since_s = since_s
        self.is_judged = False
        self._values: dict[str, dict[str, float]] = {blame.guardrail: {} for blame in blames}  # by guardrail and key

    def observe(self, measure: Measure, key: str, value: float) -> None:
        """Take what an answer of the champion says of a measure; a key counts with its first."""
        for blame in self.blames:
            values = self._values[blame.guardrail]
            if blame.measure is measure and len(values) < KEYS:
                values.setdefault(key, value)

    def is_over(self, now_s: float) -> bool:
        """Return whether it is time to judge."""
        if self.is_judged:
            return False
        return now_s - self.since_s >= SPAN_S or all(len(values) >= KEYS for values in self._values.values())

    def looks(self) -> list[Look]:
        """Return where the champion stands in each measure."""
        return [_look(blame, list(self._values[blame.guardrail].values())) for blame in self.blames]

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {
            "blames": [[one.guardrail, one.measure.value, one.champion_mean, one.challenger_mean] for one in self.blames],
            "revision": self.revision,
            "since_s": self.since_s,
            "is_judged": self.is_judged,
            "values": {name: dict(values) for name, values in self._values.items()},
        }

    @classmethod
    def restored(cls, state: object) -> Aftermath:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "aftermath")
        blames = tuple(_blame(item) for item in fields.items("blames", 100))
        aftermath = cls(blames, revision=fields.integer("revision", 0, 1 << 62), since_s=fields.number("since_s", 0.0, 1e12))
        aftermath.is_judged = fields.boolean("is_judged")
        saved = Fields(fields.value("values"), "aftermath.values")
        for name in aftermath._values:
            own = Fields(saved.value(name), "aftermath.values")
            aftermath._values[name] = {key: own.number(key, 0.0, 1.0) for key in saved.mapping(name)}
        return aftermath


def has_not_helped(looks: Iterable[Look]) -> bool:
    """Return whether the champion does as badly in every measure that tells, and one does tell."""
    told = [look.has_helped for look in looks if look.has_helped is not None]
    return bool(told) and not any(told)


def _look(blame: Blame, values: list[float]) -> Look:
    return Look(blame, sum(values) / len(values) if values else 0.0, len(values))


def _blame(item: object) -> Blame:
    name, measure, champion, challenger = Fields({"blame": item}, "aftermath").items("blame", 4)
    fields = Fields({"measure": measure, "champion": champion, "challenger": challenger}, "aftermath.blame")
    means = (fields.number(side, -1e300, 1e300) for side in ("champion", "challenger"))
    return Blame(str(name), fields.choice("measure", Measure), *means)
