"""The parts that both status pages show: how a route is split, what the evidence of a rollout is, and the last changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gateway.control.monitored import object_of
from gateway.core.audit import AuditEntry
from gateway.core.routes import Route
from gateway.core.split import SLOTS
from gateway.drawing import words
from gateway.drawing.markup import Cell, Markup, joined, table, tag
from gateway.drawing.meters import meter, split_bar

Shown = Mapping[str, object]
_SHADES: Final = 4


def split(route: Route) -> Markup:
    """Return how the keys of a route are split, as a bar and in words, with its shadows."""
    shares = [(f"{one.name}, version {one.version}, {one.weight / SLOTS:.4g} of 1", one.weight / SLOTS) for one in route.variants]
    legend = [
        tag(
            "span", _swatch(place), f"{one.name} {one.version}", tag("span", f" {100 * one.weight / SLOTS:.4g} %", class_="quiet")
        )
        for place, one in enumerate(route.variants)
    ]
    copies = [
        tag("span", f"{one.name} {one.version}", tag("span", f" sees {100 * one.fraction:.4g} % as copies", class_="quiet"))
        for one in route.shadows
    ]
    return joined(split_bar(shares), tag("div", *legend, *copies, class_="legend"))


def evidence(finding: Shown) -> Markup:
    """Return one guardrail's log e as a bar with its bound, and in words."""
    log_e, bound = words.found(finding, "log_e_best"), words.found(finding, "bound") or 0.0
    says = f"log e {words.number(log_e, '.2f')} of {bound:.2f}"
    return joined(meter(log_e, bound, says=says), " ", tag("span", says, class_="small"))


def furthest(findings: Sequence[Shown]) -> Shown | None:
    """Return the finding that is nearest to a rollback, or None."""
    return max(
        findings, key=lambda one: (words.found(one, "log_e_best") or 0.0) / (words.found(one, "bound") or 1.0), default=None
    )


def shift(feature: Shown) -> Markup:
    """Return how far a feature moved from training, as a bar with its bound."""
    psi, bound = words.found(feature, "psi"), words.found(feature, "psi_bound") or 0.0
    says = f"PSI {words.number(psi, '.3f')} of {bound:.3f}"
    return joined(meter(psi, bound, says=says), " ", tag("span", says, class_="small"))


def changes(entries: Sequence[AuditEntry], *, empty: str) -> Markup:
    """Return audit entries as a table."""
    columns: dict[str, Cell[AuditEntry]] = {
        "when": lambda one: words.moment(one.time_s),
        "who": lambda one: words.shortened(one.principal),
        "what": lambda one: joined(one.action, " ", tag("span", words.shortened(one.subject), class_="quiet small")),
        "why": lambda one: words.shortened(one.reason),
        "entry": lambda one: str(one.seq),
    }
    return table(entries, columns, empty=empty, numbers=frozenset({"entry"}))


def objects(body: Shown, name: str) -> list[Shown]:
    """Return a field that is an array of objects, or an empty one."""
    return list(_objects(body.get(name)))


def _objects(value: object) -> Iterator[Shown]:
    if isinstance(value, list):
        yield from (object_of(one) for one in value)


def _swatch(place: int) -> Markup:
    square = tag("rect", class_=f"shade{place % _SHADES}", width=10, height=10, rx=2)
    return tag("svg", square, viewBox="0 0 10 10", aria_hidden="true")
