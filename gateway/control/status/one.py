"""The status page of one route: its health part by part, its split, its rollout's evidence, drift, versions and changes."""

from __future__ import annotations

from typing import Final

from gateway.control import monitored
from gateway.control.calls import Control
from gateway.control.health import seen_by
from gateway.control.monitored import object_of, of_route
from gateway.control.status import parts
from gateway.control.status.frame import level_chip
from gateway.core.audit import AuditEntry
from gateway.core.health import Part
from gateway.core.outlook import explained
from gateway.core.rollouts import Rollout
from gateway.drawing import words
from gateway.drawing.markup import Cell, Markup, joined, table, tag

FEATURES_MAX: Final = 50  # the furthest over their bound first; whoever wants all asks `headgate drift`
INCIDENTS_MAX: Final = 20
LOOKED_AT: Final = 500  # newest audit entries that are searched for the route's
CHANGES_MAX: Final = 20


def one_route(control: Control, name: str) -> Markup:
    """Return the page's content.

    Raises:
        StoreFailed: the registry cannot be read.
        UnknownRoute: there is no such route.
    """
    route, readings = control.registry.table().route(name), monitored.picture(control)
    rollout = next(iter(control.registry.rollouts(name, limit=1)), None)
    health, shown = seen_by(control, readings).health(route, rollout), of_route(readings, name)
    team = f", team {route.team}" if route.team else ""
    about = f"Model {route.model}{team}, revision {route.revision}, deadline {route.deadline_ms:,} ms."
    return joined(
        tag("h1", name, " ", level_chip(health.level)),
        tag("p", about, class_="quiet"),
        parts.split(route),
        tag("h2", "Health"),
        _health(health.parts),
        tag("h2", "Rollout"),
        _rollout(rollout, {} if rollout is None else monitored.evidence(readings, rollout)),
        tag("h2", "Drift"),
        _drift(object_of(shown.get("drift"))),
        tag("h2", "Versions, in the last hour"),
        _versions(shown),
        tag("h2", "Quality"),
        _quality(object_of(shown.get("quality"))),
        tag("h2", "Last changes"),
        parts.changes(_entries(control, name), empty="no change of this route is remembered; headgate audit list has all"),
    )


def _health(found: tuple[Part, ...]) -> Markup:
    columns: dict[str, Cell[Part]] = {
        "part": lambda one: one.name,
        "level": lambda one: level_chip(one.level),
        "evidence": lambda one: words.shortened(one.evidence),
    }
    return table(found, columns, empty="")


def _rollout(rollout: Rollout | None, evidence: parts.Shown) -> Markup:
    if rollout is None:
        return tag("p", "There was none.", class_="quiet")
    sentences = explained(rollout, evidence)
    told = sentences[:2] if rollout.is_watched else sentences
    columns: dict[str, Cell[parts.Shown]] = {
        "guardrail": lambda one: joined(
            str(one.get("guardrail")), tag("span", " dry run", class_="quiet small") if one.get("is_dry_run") else None
        ),
        "verdict": lambda one: str(one.get("verdict")).lower(),
        "evidence": parts.evidence,
        "difference": _interval,
        "keys": lambda one: words.number(one.get("challenger_count"), ",.0f"),
        "why": lambda one: words.shortened(one.get("why") or one.get("reason")),
    }
    found = table(parts.objects(evidence, "findings"), columns, empty="no evidence is gathered now", numbers=frozenset({"keys"}))
    return joined(*(tag("p", words.shortened(one)) for one in told), found)


def _interval(finding: parts.Shown) -> str:
    lower, upper = (words.number(finding.get(name), "+.3g") for name in ("lower", "upper"))
    return f"{words.number(finding.get('estimate'), '+.3g')} in [{lower}, {upper}]"


def _drift(drift: parts.Shown) -> Markup:
    features = parts.objects(drift, "features")
    columns: dict[str, Cell[parts.Shown]] = {
        "feature": lambda one: words.shortened(one.get("feature")),
        "against training": parts.shift,
        "share": lambda one: words.share(one.get("share")),
        "changes": lambda one: words.number(one.get("alarms"), ",.0f"),
        "rows": lambda one: words.number(one.get("rows"), ",.0f"),
    }
    none = "Nothing to compare with: register the version with a reference, or wait for its first answers."
    caption = (
        f"The {FEATURES_MAX} of {len(features):,} features furthest over their bound" if len(features) > FEATURES_MAX else ""
    )
    shown = table(features[:FEATURES_MAX], columns, empty=none, caption=caption, numbers=frozenset({"share", "changes", "rows"}))
    incidents: dict[str, Cell[parts.Shown]] = {
        "incident": lambda one: words.moment(one.get("opened_at_s")),
        "attribution": lambda one: str(one.get("attribution")).lower(),
        "subjects": lambda one: words.shortened(_listed(one.get("subjects"))),
        "why": lambda one: words.shortened(one.get("why")),
    }
    return joined(shown, table(parts.objects(drift, "incidents")[-INCIDENTS_MAX:][::-1], incidents, empty="No incident."))


def _listed(value: object) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, list) else ""


def _versions(shown: parts.Shown) -> Markup:
    columns: dict[str, Cell[parts.Shown]] = {
        "version": lambda one: str(one.get("version")),
        "variant": lambda one: str(one.get("variant")),
        "kind": lambda one: str(one.get("kind")),
        "predictions": lambda one: words.number(one.get("predictions"), ",.0f"),
        "failed": lambda one: words.share(one.get("error_rate")),
        "mean latency": lambda one: f"{words.number(one.get('latency_ms_mean'), '.3g')} ms",
    }
    return table(parts.objects(shown, "versions"), columns, empty="No prediction was seen.", numbers=_RIGHT)


def _quality(quality: parts.Shown) -> Markup:
    columns: dict[str, Cell[parts.Shown]] = {
        "version": lambda one: str(one.get("version")),
        "variant": lambda one: str(one.get("variant")),
        "mean loss": lambda one: words.number(one.get("mean_loss")),
        "estimated": lambda one: words.number(one.get("estimated_loss")),
        "outcomes": lambda one: words.number(one.get("truths"), ",.0f"),
        "coverage": lambda one: words.share(one.get("coverage")),
    }
    return table(parts.objects(quality, "versions"), columns, empty="No answer can be scored yet.", numbers=_RIGHT)


def _entries(control: Control, name: str) -> list[AuditEntry]:
    place = f"route:{name}"
    entries = control.registry.audit(limit=LOOKED_AT, newest_first=True)
    found = [one for one in entries if place == one.subject or place in one.before or place in one.after]
    looked = {one.seq for one in entries}
    older = [seq for seq in control.trail.changes(name) if seq not in looked] if len(found) < CHANGES_MAX else []
    return [*found, *(one for seq in older for one in control.registry.audit(seq - 1, 1))][:CHANGES_MAX]


_RIGHT: Final = frozenset({"predictions", "failed", "mean latency", "mean loss", "estimated", "outcomes", "coverage"})
