"""When a model is to be trained anew: what came true got worse, and no version is to blame.

A rise of the live version's loss says that something moved; what ran beside it says what. While inputs arrive broken, training on
them would be worse than waiting, and a version that its predecessor beats on the same requests is to go back, not to be trained
anew. All else is the world's, for which going back is no help. Pure; the monitor asks, once, and whoever trains decides.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.core.attribution import Attributed, Attribution
from gateway.core.fields import Json
from gateway.core.guardrails import Finding, Verdict

ASK: Final = "retraining.ask"  # the action in the audit log, and the kind of the notice


@dataclass(frozen=True, slots=True)
class Rise:
    """Losses of a version, known from ground truth, above what its own past allows.

    Attributes:
        since_s: About when the first prediction was made that it shows in.
        loss: The mean loss since then, in [0, 1].
        reference: The mean of what the version is measured by.
        bound: The mean loss that the reference's own error still explains.
        outcomes: Since then.
        log_e, log_e_bound: Of the evidence; None where the bound alone decides.
    """

    version: str
    since_s: float
    loss: float
    reference: float
    bound: float
    outcomes: int
    log_e: float | None = None
    log_e_bound: float | None = None

    def __str__(self) -> str:
        evidence = f", log e {self.log_e:.1f} of {self.log_e_bound:.1f}" if self.log_e is not None else ""
        seen = f"the mean loss of version {self.version} is {self.loss:.4g} over {self.outcomes} outcomes"
        return f"{seen}, {self.reference:.4g} before, bound {self.bound:.4g}{evidence}"

    def body(self) -> Json:
        """Return the rise as an audit entry stores it and a pipeline reads it."""
        return {name: getattr(self, name) for name in self.__slots__}


def attributed_rise(rise: Rise, paired: Sequence[Finding], *, is_compared: bool, is_broken: bool) -> Attributed:
    """Return where a rise comes from; NONE while that is still to be seen.

    Args:
        paired: What the shadow of a promotion that cools down says of loss on the same requests; empty where nothing does.
        is_compared: Whether a challenger answers beside the version.
        is_broken: Whether inputs arrived broken in that time: missing, unseen or out of range.
    """
    if is_broken:
        return Attributed(Attribution.DATA, f"{rise}; but inputs arrive broken: mend the feed first")
    if any(finding.verdict is Verdict.FAIL for finding in paired):
        return Attributed(Attribution.VERSION, f"{rise}; and the version before does better on the same requests")
    if any(finding.verdict is Verdict.INCONCLUSIVE for finding in paired):
        return Attributed(Attribution.NONE, f"{rise}; whether the version before would do better is not known yet")
    beside = "no other version answers, so going back is not known to help"
    if paired:
        beside = "the version before does no better on the same requests"
    elif is_compared:
        beside = "it is the champion, and no challenger explains it"
    return Attributed(Attribution.WORLD, f"{rise}; {beside}")


def event_data(route: str, evidence: Json) -> Json:
    """Return what a training pipeline is told: the evidence of an audit entry, and where the recent data lies."""
    since, until = (_moment(evidence.get(name)) for name in ("since_s", "until_s"))
    file = shlex.quote(f"{route}.parquet")
    span = f"--since {since} --until {until}"
    return {
        "route": route,
        **{name: evidence.get(name) for name in ("model", "attribution", "why", "finding")},
        "since": since,
        "until": until,
        "export": f"headgate predictions export {file} --route {shlex.quote(route)} {span}",
    }


def _moment(time_s: object) -> str:
    """Return a time as RFC 3339 has it, and as `--since` takes it."""
    seconds = float(time_s) if isinstance(time_s, int | float) else 0.0
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
