"""What a route was at the revision that a record names.

Records of several revisions arrive mixed, and the monitor may be behind, or read the log a second time after a crash. So it asks
for the route at exactly that revision: the registry's present one, or the one that the audit log kept when it was committed.
Thus the same log gives the same decisions, whenever it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.core.audit import AuditEntry
from gateway.core.errors import MalformedRequest, UnknownRoute, UnknownSubject, UnknownVersion
from gateway.core.models import Version
from gateway.core.rollouts import CHALLENGER, Rollout, rollout_from_body
from gateway.core.routes import DriftAction, Route, Variant, stored_route
from gateway.core.split import SLOTS
from gateway.ports.stores import RegistryStore

AUDIT_PAGE: Final = 100
AUDIT_PAGES_MAX: Final = 20  # 2,000 changes back, about 0.1 s; a monitor further behind gathers no evidence from older revisions


@dataclass(frozen=True, slots=True)
class RouteView:
    """What the monitor needs of a route at one revision; without the owners of its slots.

    Attributes:
        rollout: The one open at that revision, or None.
        needs_approval: Whether it wants a person's approval before a promotion.
        is_known: Whether the revision was found; otherwise everything but name, model and revision is empty.
        share: The chance with which the split gives a key to the challenger.
        live_version: The version in charge: the champion during a rollout, else the variant with the greatest weight.
    """

    name: str
    model: str
    revision: int
    variants: tuple[Variant, ...] = ()
    last_good: tuple[Variant, ...] = ()
    drift_action: DriftAction = DriftAction.NOTIFY
    rollout: Rollout | None = None
    needs_approval: bool = False
    is_known: bool = True
    share: float = field(init=False)  # these two are asked for with every record
    live_version: str = field(init=False)

    def __post_init__(self) -> None:
        """Work out what follows from the rest."""
        share = sum(variant.weight for variant in self.variants if variant.name == CHALLENGER) / SLOTS
        live = max(self.variants, key=lambda variant: variant.weight).version if self.variants else ""
        object.__setattr__(self, "share", share)
        object.__setattr__(self, "live_version", live if self.rollout is None else self.rollout.champion)

    @property
    def compared(self) -> tuple[str, ...]:
        """The versions that a rollout compares; none without one."""
        return (self.rollout.champion, self.rollout.challenger) if self.rollout is not None else ()


def view_of(route: Route, rollout: Rollout | None) -> RouteView:
    """Return what the monitor keeps of a route."""
    return RouteView(
        name=route.name,
        model=route.model,
        revision=route.revision,
        variants=route.variants,
        last_good=route.last_good,
        drift_action=route.drift_action,
        rollout=rollout,
        needs_approval=route.needs_approval,
    )


def present_view(registry: RegistryStore, name: str) -> RouteView | None:
    """Return the route as it is now, also one that only a model's champion implies; None when there is none.

    Raises:
        StoreFailed: the registry cannot be read.
    """
    try:
        route = registry.table().route(name)
    except UnknownRoute:
        return None
    return view_of(route, _rollout(registry, route.rollout))


def view_at(registry: RegistryStore, name: str, model: str, revision: int) -> RouteView:
    """Return the route as it was at a revision.

    Raises:
        StoreFailed: the registry cannot be read.
    """
    present = present_view(registry, name)
    if present is not None and present.revision == revision:
        return present
    if revision == 0:  # whatever the model's champion was; no commit made it
        return RouteView(name, model, revision)
    after = 0
    for _ in range(AUDIT_PAGES_MAX):
        page = registry.audit(after, AUDIT_PAGE, newest_first=True)
        for entry in page:
            if (view := _view_in(registry, entry, name, revision)) is not None:
                return view
        if not page or page[-1].seq == 1:
            break
        after = page[-1].seq
    return RouteView(name, model, revision, is_known=False)


def _view_in(registry: RegistryStore, entry: AuditEntry, name: str, revision: int) -> RouteView | None:
    body = entry.after.get(f"route:{name}")
    if not isinstance(body, dict) or body.get("revision") != revision:
        return None
    try:
        route = stored_route(body, ())
        if (kept := entry.after.get(f"rollout:{route.rollout}")) is not None:
            return view_of(route, rollout_from_body(kept))
    except MalformedRequest:
        return None
    return view_of(route, _rollout(registry, route.rollout))


def _rollout(registry: RegistryStore, id: str) -> Rollout | None:
    if not id:
        return None
    try:
        return registry.rollout(id)
    except UnknownSubject:
        return None


def unchanged_rollout(registry: RegistryStore, view: RouteView, rollout: Rollout) -> Rollout:
    """Return the rollout as it stands now if the route is still at the view's revision, else as it was known.

    What happened at a later revision is learned from its records, or from the conflict that acting on this one meets.
    """
    present = present_view(registry, view.name)
    if present is None or present.revision != view.revision or present.rollout is None or present.rollout.id != rollout.id:
        return rollout
    return present.rollout


def version_or_none(registry: RegistryStore, model: str, version: str) -> Version | None:
    """Return a version, or None when it is not registered (any more)."""
    try:
        return registry.version(model, version)
    except UnknownVersion:
        return None
